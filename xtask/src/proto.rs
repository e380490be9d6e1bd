//! `cargo xtask proto`: the Rust types of the frame schema, generated without protoc and checked in.

use std::fs;
use std::path::Path;

use crate::failure::Failure;

/// Generates `collector/src/frame/generated.rs`, or compares it.
pub fn run(root: &Path, check: bool) -> Result<(), Failure> {
    let include = root.join("collector/proto");
    let files = protox::compile(["apscope/v1/frame.proto"], [&include])
        .map_err(|e| Failure::new("compiling frame.proto").cause(e.to_string()))?;
    let out = std::env::temp_dir().join(format!("apscope-proto-{}", std::process::id()));
    fs::create_dir_all(&out).map_err(|e| Failure::file("creating", &out, &e))?;
    let mut config = prost_build::Config::new();
    config.out_dir(&out);
    config
        .compile_fds(files)
        .map_err(|e| Failure::file("writing into", &out, &e))?;
    let generated = fs::read_to_string(out.join("apscope.v1.rs"))
        .map_err(|e| Failure::file("reading", &out.join("apscope.v1.rs"), &e));
    fs::remove_dir_all(&out).map_err(|e| Failure::file("removing", &out, &e))?;
    let generated = generated?;
    let target = root.join("collector/src/frame/generated.rs");
    if check {
        let present =
            fs::read_to_string(&target).map_err(|e| Failure::file("reading", &target, &e))?;
        if present != generated {
            return Err(Failure::found(format!(
                "{} is not what the schema gives",
                target.display()
            ))
            .hint("cargo xtask proto"));
        }
        println!("schema types are up to date");
        return Ok(());
    }
    fs::write(&target, generated).map_err(|e| Failure::file("writing", &target, &e))?;
    println!("wrote {}", target.display());
    Ok(())
}

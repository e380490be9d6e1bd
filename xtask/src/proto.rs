//! `cargo xtask proto`: the Rust types of the frame schema, generated without protoc and checked in.

use std::fs;
use std::path::Path;

/// Generates `collector/src/frame/generated.rs`, or compares it.
pub fn run(root: &Path, check: bool) -> Result<(), String> {
    let include = root.join("collector/proto");
    let files =
        protox::compile(["apscope/v1/frame.proto"], [&include]).map_err(|e| format!("{e}"))?;
    let out = std::env::temp_dir().join(format!("apscope-proto-{}", std::process::id()));
    fs::create_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
    let mut config = prost_build::Config::new();
    config.out_dir(&out);
    config
        .compile_fds(files)
        .map_err(|e| format!("generating the types: {e}"))?;
    let generated = fs::read_to_string(out.join("apscope.v1.rs"))
        .map_err(|e| format!("reading the result: {e}"));
    fs::remove_dir_all(&out).map_err(|e| format!("{}: {e}", out.display()))?;
    let generated = generated?;
    let target = root.join("collector/src/frame/generated.rs");
    if check {
        let present =
            fs::read_to_string(&target).map_err(|e| format!("{}: {e}", target.display()))?;
        if present != generated {
            return Err(format!(
                "{} is not what `cargo xtask proto` generates\ntry: cargo xtask proto",
                target.display()
            ));
        }
        println!("schema types are up to date");
        return Ok(());
    }
    fs::create_dir_all(target.parent().ok_or("no parent folder")?).map_err(|e| e.to_string())?;
    fs::write(&target, generated).map_err(|e| format!("{}: {e}", target.display()))?;
    println!("wrote {}", target.display());
    Ok(())
}

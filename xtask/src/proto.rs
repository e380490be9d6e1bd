//! `cargo xtask proto`: the Rust types of the schema and the service, generated without protoc and checked in.

use std::fs;
use std::path::Path;

use crate::failure::Failure;

/// Where each schema's types are.
const GENERATED: [(&str, &str); 2] = [
    ("apscope/v1/frame.proto", "collector/src/frame/generated.rs"),
    (
        "apscope/v1/collector.proto",
        "collector/src/service/generated.rs",
    ),
];

/// Generates the types, or compares them.
pub fn run(root: &Path, check: bool) -> Result<(), Failure> {
    for (schema, target) in GENERATED {
        let generated = generate(&root.join("collector/proto"), schema)?;
        let target = root.join(target);
        if !check {
            fs::write(&target, generated).map_err(|e| Failure::file("writing", &target, &e))?;
            println!("wrote {}", target.display());
            continue;
        }
        let present =
            fs::read_to_string(&target).map_err(|e| Failure::file("reading", &target, &e))?;
        if present != generated {
            return Err(Failure::found(format!(
                "{} is not what the schema gives",
                target.display()
            ))
            .hint("cargo xtask proto"));
        }
    }
    if check {
        println!("schema types are up to date");
    }
    Ok(())
}

/// The types of one schema. Of what it imports there are types already.
fn generate(include: &Path, schema: &str) -> Result<String, Failure> {
    let files = protox::compile([schema], [include])
        .map_err(|e| Failure::new(format!("compiling {schema}")).cause(e.to_string()))?;
    let out = std::env::temp_dir().join(format!("apscope-proto-{}", std::process::id()));
    fs::create_dir_all(&out).map_err(|e| Failure::file("creating", &out, &e))?;
    let services = tonic_prost_build::configure()
        .build_transport(false)
        .service_generator();
    let mut config = prost_build::Config::new();
    config.out_dir(&out).service_generator(services);
    for file in files.file.iter().filter(|file| file.name() != schema) {
        for message in &file.message_type {
            let name = message.name();
            // Frames are encoded once for all clients.
            let path = match name {
                "Frame" => "crate::service::encoded::Encoded<crate::frame::Frame>".to_owned(),
                name => format!("crate::frame::{name}"),
            };
            config.extern_path(format!(".{}.{name}", file.package()), path);
        }
    }
    config
        .compile_fds(files)
        .map_err(|e| Failure::file("writing into", &out, &e))?;
    let generated = fs::read_to_string(out.join("apscope.v1.rs"))
        .map_err(|e| Failure::file("reading", &out.join("apscope.v1.rs"), &e));
    fs::remove_dir_all(&out).map_err(|e| Failure::file("removing", &out, &e))?;
    generated
}

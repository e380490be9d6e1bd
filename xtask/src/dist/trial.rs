//! Tries what was built: the binary says its version, and the archive's binary measures something where there is
//! nothing else.
//!
//! Nothing else: a root folder, mounted read-only, that holds the binary, /proc and /sys, so no library, no compiler,
//! no BTF file of the distribution and no temporary folder.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::apscope::Scratch;
use crate::compare::count;
use crate::failure::Failure;
use crate::process;

/// Makes the root in a mount namespace of its own, and runs the program there. Arguments: folder, archive, name of the
/// archive's folder.
const IN_EMPTY_ROOT: &str = r#"set -e
mount -t tmpfs -o mode=755 none "$1"
mkdir "$1/proc" "$1/sys"
tar -xzf "$2" -C "$1" --strip-components=1 "$3/apscope"
mount -t proc none "$1/proc"
mount --rbind /sys "$1/sys"
mount -o remount,ro "$1"
exec chroot "$1" /apscope export --source emulator --probe in-process --duration 1s --format json -o -
"#;

/// What `apscope --version` prints.
pub fn version(binary: &Path, emulator: Option<&str>) -> Result<String, Failure> {
    let mut command = through(emulator, binary);
    let output = command
        .arg("--version")
        .output()
        .map_err(|e| Failure::file("running", binary, &e))?;
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && said.starts_with("apscope ") {
        return Ok(said);
    }
    Err(Failure::found(format!(
        "{}: `--version` printed \"{said}\"",
        binary.display()
    ))
    .cause(format!(
        "{}, {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    )))
}

fn through(emulator: Option<&str>, binary: &Path) -> Command {
    match emulator {
        None => Command::new(binary),
        Some(emulator) => {
            let mut command = Command::new(emulator);
            command.arg(binary);
            command
        }
    }
}

/// Tries the binary inside of an archive. Returns what was tried, one sentence each.
pub fn archive(archive: &Path, emulator: Option<&str>) -> Result<Vec<String>, Failure> {
    let name = archive
        .file_name()
        .and_then(|n| n.to_str())
        .and_then(|n| n.strip_suffix(".tar.gz"))
        .ok_or_else(|| Failure::new(format!("{} is no archive", archive.display())))?;
    let scratch = Scratch::new()?;
    process::run(
        Command::new("tar")
            .arg("-xzf")
            .arg(archive)
            .arg("-C")
            .arg(scratch.path()),
        "unpacking the archive",
    )?;
    let unpacked = scratch.path().join(name);
    let said = version(&unpacked.join("apscope"), emulator)?;
    let mut tried = vec![format!("the unpacked binary says: {said}")];
    if emulator.is_some() {
        // The collector starts itself as the emulated driver, which needs more than an emulator of user programs.
        tried.push("not run in an empty root: that needs the machine itself".into());
        return Ok(tried);
    }
    if process::output_of("id", &["-u"]).as_deref() != Some("0") {
        tried.push("not run in an empty root: that needs root".into());
        return Ok(tried);
    }
    let root = scratch.path().join("root");
    std::fs::create_dir(&root).map_err(|e| Failure::file("creating", &root, &e))?;
    let output = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c"])
        .arg(IN_EMPTY_ROOT)
        .arg("sh")
        .arg(&root)
        .arg(archive)
        .arg(name)
        .stdin(Stdio::null())
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .map_err(|e| Failure::new("running unshare").cause(e.to_string()))?;
    let failed = |what: String| {
        Failure::found(format!("in an empty root: {what}"))
            .cause(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    };
    if !output.status.success() {
        let how = output.status.signal().map_or_else(
            || output.status.to_string(),
            |signal| format!("killed by signal {signal}"),
        );
        return Err(failed(how));
    }
    let export: Value =
        serde_json::from_slice(&output.stdout).map_err(|e| failed(e.to_string()))?;
    let acquisitions: u64 = export["locks"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|lock| count(&lock["acquisitions"]))
        .sum();
    if acquisitions == 0 {
        return Err(failed("nothing was measured".into()));
    }
    tried.push(format!(
        "in an empty, read-only root it measured {acquisitions} acquisitions in a second"
    ));
    Ok(tried)
}

//! The peer: bpftrace running `xtask/bench/probe.bt` on the emulator's lock functions.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSegment as _};
use serde_json::Value;

use crate::compare::count;
use crate::failure::Failure;
use crate::process;

/// bpftrace at work; ended when dropped.
pub struct Bpftrace {
    child: Child,
    output: PathBuf,
    errors: PathBuf,
}

impl Bpftrace {
    /// Starts the script `text` with names and addresses filled in, and waits until its probes are attached.
    pub fn start(
        text: &str,
        binary: &Path,
        lock: u64,
        unlock: u64,
        folder: &Path,
    ) -> Result<Self, Failure> {
        if process::output_of("bpftrace", &["--version"]).is_none() {
            return Err(Failure::new("no bpftrace")
                .cause("`bpftrace --version` does not run")
                .hint("apt-get install bpftrace"));
        }
        let script = folder.join("probe.bt");
        let image = fs::read(binary).map_err(|e| Failure::file("reading", binary, &e))?;
        let filled = fill(
            text,
            binary,
            address(&image, lock)?,
            address(&image, unlock)?,
        );
        fs::write(&script, filled).map_err(|e| Failure::file("writing", &script, &e))?;
        let (output, errors) = (folder.join("bpftrace.out"), folder.join("bpftrace.err"));
        let create =
            |path: &Path| File::create(path).map_err(|e| Failure::file("creating", path, &e));
        let child = Command::new("bpftrace")
            // The addresses are not those of symbols where the program is stripped.
            .args(["--unsafe", "-f", "json"])
            .arg(&script)
            .stdin(Stdio::null())
            .stdout(create(&output)?)
            .stderr(create(&errors)?)
            .spawn()
            .map_err(|e| Failure::new("starting bpftrace").cause(e.to_string()))?;
        let mut peer = Self {
            child,
            output,
            errors,
        };
        peer.wait_until_attached()?;
        Ok(peer)
    }

    fn wait_until_attached(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if text(&self.output).contains("attached\\n") {
                return Ok(());
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(Failure::new(format!("bpftrace ended: {status}"))
                    .cause(text(&self.errors).trim().to_owned())
                    .hint("run as root"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Err(Failure::new(
            "bpftrace did not attach its probes within 60 s",
        ))
    }

    /// Ends it and returns how many waits and holds it has in its histograms.
    pub fn finish(mut self) -> Result<(u64, u64), Failure> {
        let pid = self.child.id().to_string();
        process::run(Command::new("kill").args(["-INT", &pid]), "ending bpftrace")?;
        self.child
            .wait()
            .map_err(|e| Failure::new("waiting for bpftrace").cause(e.to_string()))?;
        let said = text(&self.output);
        Ok((samples(&said, "@wait"), samples(&said, "@hold")))
    }
}

impl Drop for Bpftrace {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The script with the names in capitals replaced.
fn fill(text: &str, binary: &Path, lock: u64, unlock: u64) -> String {
    let comment = |line: &&str| !line.starts_with("//");
    let code: Vec<&str> = text.lines().filter(comment).collect();
    code.join("\n")
        .replace("BINARY", &binary.display().to_string())
        .replace("MUTEX_LOCK", &format!("{lock:#x}"))
        .replace("MUTEX_UNLOCK", &format!("{unlock:#x}"))
}

/// bpftrace wants addresses as the program's segments place them, the emulator reports offsets in the file.
fn address(image: &[u8], offset: u64) -> Result<u64, Failure> {
    let elf: ElfFile64 = ElfFile64::parse(image)
        .map_err(|e| Failure::new("reading the program").cause(e.to_string()))?;
    elf.segments()
        .find_map(|segment| {
            let (start, size) = segment.file_range();
            (start..start + size)
                .contains(&offset)
                .then(|| segment.address() + offset - start)
        })
        .ok_or_else(|| {
            Failure::new(format!(
                "no segment of the program holds offset {offset:#x}"
            ))
        })
}

/// Number of samples in a histogram of bpftrace's JSON lines.
fn samples(output: &str, map: &str) -> u64 {
    output
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|v| v["type"] == "hist")
        .filter_map(|v| v["data"][map].as_array().cloned())
        .flatten()
        .map(|bucket| count(&bucket["count"]))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_kept_in_the_repository_has_all_names_filled_in() {
        let text = include_str!("../../bench/probe.bt");
        let filled = fill(text, Path::new("/bin/apscope"), 0x10, 0x20);
        assert!(filled.contains("uretprobe:/bin/apscope:0x10\n"), "{filled}");
        assert!(filled.contains("uprobe:/bin/apscope:0x20\n"), "{filled}");
        assert!(
            !filled.contains("MUTEX") && !filled.contains("BINARY"),
            "{filled}"
        );
    }

    #[test]
    fn samples_are_summed_over_the_buckets() {
        let output = "{\"type\": \"attached_probes\", \"data\": {\"probes\": 5}}\n\
                      {\"type\": \"hist\", \"data\": {\"@hold\": [{\"min\": 8, \"max\": 15, \"count\": 3}, \
                      {\"min\": 16, \"max\": 31, \"count\": 4}]}}\n";
        assert_eq!(samples(output, "@hold"), 7);
        assert_eq!(samples(output, "@wait"), 0);
    }
}

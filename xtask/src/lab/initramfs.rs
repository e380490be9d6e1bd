//! The file system that the lab's kernel starts with: a cpio archive in the format `newc`
//! (Documentation/driver-api/early-userspace/buffer-format.rst), not compressed, since unpacking is done by the emulated
//! machine. Takes files, gives bytes; does not know what is in them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::kernels::Kernel;
use crate::failure::Failure;

/// The first process.
const INIT: &[u8] = include_bytes!("../../lab/init");

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;

/// An archive that is being written.
#[derive(Debug, Default)]
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.inode += 1;
        // Magic, then ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize with
        // the final NUL, and a checksum that this format does not use.
        let fields = [
            self.inode,
            mode,
            0,
            0,
            1,
            0,
            data.len() as u32,
            0,
            0,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.inode = 0;
        self.add("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

/// Writes the initramfs of a kernel: busybox, its modules, and the first process.
pub fn write(kernel: &Kernel, path: &Path) -> Result<(), Failure> {
    let read = |path: &PathBuf| fs::read(path).map_err(|e| Failure::file("reading", path, &e));
    let mut archive = Archive::default();
    for folder in ["bin", "modules"] {
        archive.add(folder, FOLDER, &[]);
    }
    archive.add("init", PROGRAM, INIT);
    archive.add("bin/busybox", PROGRAM, &read(&kernel.busybox)?);
    // The kernel reads `#!/bin/sh` of the first process before there are links to busybox.
    archive.add("bin/sh", PROGRAM, &read(&kernel.busybox)?);
    for module in &kernel.modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.add(&format!("modules/{name}"), FILE, &read(module)?);
    }
    let written: io::Result<()> = fs::write(path, archive.finish());
    written.map_err(|e| Failure::file("writing", path, &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_laid_out_as_the_format_says() {
        let mut archive = Archive::default();
        archive.add("bin", FOLDER, &[]);
        archive.add("init", PROGRAM, b"12345");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        // 110 bytes of header, "bin\0", padded to a multiple of 4.
        assert_eq!(&text[..14], "07070100000001");
        assert_eq!(&text[14..22], "000041ed");
        assert_eq!(&text[110..116], "bin\0\0\0");
        let second = &text[116..];
        assert_eq!(&second[..6], "070701");
        assert_eq!(&second[54..62], "00000005", "size of the file");
        assert_eq!(&second[94..102], "00000005", "size of the name");
        assert_eq!(&second[110..116], "init\0\0");
        assert_eq!(&second[116..124], "12345\0\0\0");
        assert_eq!(&second[124 + 110..124 + 120], "TRAILER!!!");
        assert_eq!(bytes.len() % 4, 0);
    }
}

//! The socket: made under another name with its owner and mode, then given its name, and removed when it is ours; and how
//! connections are accepted.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::sync::watch;

use crate::cli::Failure;

/// Mode of the socket where a group may connect, and where none may.
const MODE_GROUP: u32 = 0o660;
const MODE_OWNER: u32 = 0o600;

/// The next connection; `None` when the collector stops.
pub async fn next<S>(
    accept: impl AsyncFn() -> io::Result<S>,
    stopping: &mut watch::Receiver<bool>,
) -> Option<S> {
    loop {
        tokio::select! {
            accepted = accept() => match accepted {
                Ok(stream) => return Some(stream),
                // Out of descriptors: others must go first.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            _ = stopping.wait_for(|stopping| *stopping) => return None,
        }
    }
}

/// A listening socket. It is removed when this is dropped.
#[derive(Debug)]
pub struct Socket {
    /// Path.
    pub path: PathBuf,
    /// The socket.
    pub listener: UnixListener,
    /// Device and inode.
    file: (u64, u64),
}

impl Socket {
    /// Listens at a path. What a collector that is gone has left there is replaced.
    pub fn bind(path: &Path, gid: Option<u32>) -> Result<Self, Failure> {
        let failed = |cause: String, hint: &str| {
            Failure::new(
                format!("cannot listen at unix:{}", path.display()),
                cause,
                hint,
            )
        };
        let folder_hint = "a path in a folder that exists and that you may write to";
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(failed(
                    "there is a file that is no socket".into(),
                    "another path",
                ));
            }
            Ok(_) if UnixStream::connect(path).is_ok() => {
                return Err(failed(
                    "somebody listens there already".into(),
                    "another path, or apscope top --connect with this one",
                ));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error.to_string(), folder_hint)),
        }
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}", std::process::id()));
        let new = PathBuf::from(name);
        let made = Self::make(&new, gid).and_then(|listener| {
            fs::rename(&new, path)?;
            let file = fs::symlink_metadata(path)?;
            Ok((listener, (file.dev(), file.ino())))
        });
        match made {
            Ok((listener, file)) => Ok(Self {
                path: path.to_owned(),
                listener,
                file,
            }),
            Err(error) => {
                // It may not have been made.
                let _ = fs::remove_file(&new);
                Err(failed(error.to_string(), folder_hint))
            }
        }
    }

    fn make(path: &Path, gid: Option<u32>) -> io::Result<UnixListener> {
        // Of a process that had our number.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(path)?;
        let mode = if gid.is_some() {
            MODE_GROUP
        } else {
            MODE_OWNER
        };
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        if gid.is_some() {
            chown(path, None, gid)?;
        }
        listener.set_nonblocking(true)?;
        Ok(listener)
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|file| (file.dev(), file.ino()) == self.file);
        if ours {
            // Where it cannot be removed, the next to listen there replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_nobody_listens_at_is_replaced_and_a_file_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("collector.sock");
        drop(UnixListener::bind(&path).unwrap());
        let socket = Socket::bind(&path, None).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE_OWNER);
        let second = Socket::bind(&path, None).unwrap_err();
        assert!(second.to_string().contains("already"), "{second}");
        drop(socket);
        assert!(!path.exists());
        fs::write(&path, "mine").unwrap();
        let refused = Socket::bind(&path, None).unwrap_err();
        assert!(refused.to_string().contains("no socket"), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn a_group_may_connect_where_one_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("collector.sock");
        let own = nix::unistd::Gid::effective().as_raw();
        let _socket = Socket::bind(&path, Some(own)).unwrap();
        let file = fs::metadata(&path).unwrap();
        assert_eq!(file.permissions().mode() & 0o777, MODE_GROUP);
        assert_eq!(file.gid(), own);
    }
}

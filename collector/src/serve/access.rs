//! Who may read: root, the user that serves, and the members of one group. The kernel says who a peer is.

use std::io;
use std::mem::size_of;
use std::os::fd::AsRawFd as _;

use tokio::net::UnixStream;

/// Groups of a process, at most (the kernel's NGROUPS_MAX).
const MAX_GROUPS: usize = 65_536;

/// Who may connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// The user that serves.
    pub uid: u32,
    /// The group whose members may connect.
    pub gid: Option<u32>,
}

/// Who has connected, as of the moment when it did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Process id, where the kernel says it.
    pub pid: Option<i32>,
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Peer {
    /// Asks the kernel.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let cred = stream.peer_cred()?;
        Ok(Self {
            pid: cred.pid(),
            uid: cred.uid(),
            gid: cred.gid(),
            groups: groups(stream)?,
        })
    }
}

impl Access {
    /// Whether this peer may read.
    pub fn allows(&self, peer: &Peer) -> bool {
        let member = |gid| peer.gid == gid || peer.groups.contains(&gid);
        peer.uid == 0 || peer.uid == self.uid || self.gid.is_some_and(member)
    }
}

/// Supplementary groups of the peer (`SO_PEERGROUPS`, Linux 4.13).
fn groups(stream: &UnixStream) -> io::Result<Vec<u32>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 64];
    loop {
        let mut bytes = (groups.len() * size_of::<libc::gid_t>()) as libc::socklen_t;
        // SAFETY: the buffer is as long as `bytes` says, and both live through the call.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let count = bytes as usize / size_of::<libc::gid_t>();
        if result == 0 {
            groups.truncate(count);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // The kernel says how long the buffer must be.
        let longer = error.raw_os_error() == Some(libc::ERANGE)
            && count > groups.len()
            && count <= MAX_GROUPS;
        if !longer {
            return Err(error);
        }
        groups.resize(count, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32, gid: u32, groups: &[u32]) -> Peer {
        Peer {
            pid: None,
            uid,
            gid,
            groups: groups.to_vec(),
        }
    }

    #[test]
    fn root_the_own_user_and_members_of_the_group_may_read() {
        let access = Access {
            uid: 500,
            gid: Some(7),
        };
        for allowed in [
            peer(0, 0, &[]),
            peer(500, 1, &[]),
            peer(9, 7, &[]),
            peer(9, 1, &[3, 7]),
        ] {
            assert!(access.allows(&allowed), "{allowed:?}");
        }
        for refused in [peer(9, 1, &[]), peer(9, 500, &[0, 1])] {
            assert!(!access.allows(&refused), "{refused:?}");
        }
        let closed = Access {
            gid: None,
            ..access
        };
        assert!(!closed.allows(&peer(9, 7, &[7])));
    }

    #[tokio::test]
    async fn the_kernel_says_who_a_peer_is() {
        let (one, _other) = UnixStream::pair().unwrap();
        let peer = Peer::of(&one).unwrap();
        assert_eq!(peer.uid, nix::unistd::Uid::effective().as_raw());
        assert_eq!(peer.gid, nix::unistd::Gid::effective().as_raw());
    }
}

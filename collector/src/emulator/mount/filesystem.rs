//! The tree as a FUSE file system.
//!
//! One thread answers what needs no lock of the driver: names, numbers, links. Reads and writes of files go to
//! [`super::writers`], so this thread never blocks. Nothing is cached in the kernel: files use direct I/O, names and
//! attributes are asked for each time.
//!
//! A file has a new FUSE node each time that its name is looked up, with the same inode number. The kernel holds a lock
//! of its inode during a write, and for `O_TRUNC`; with one inode for all, a second writer of the same attribute would
//! wait for the first in the file system instead of in the driver.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenAccMode, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate,
    ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request, TimeOrNow,
    WriteFlags,
};

use super::backend::Backend;
use super::backend::Writer;
use super::node::{Kind, Node, ROOT};
use super::tree::{Errno, PAGE_SIZE, Tree};
use super::writers::{Job, Writers};

/// Nothing may be remembered: devices come and go.
const TTL: Duration = Duration::ZERO;
/// FUSE nodes of files are numbered from here; those of folders and links have their inode number, which is lower or
/// has bit 63.
const FIRST_FILE: u64 = 1 << 40;

/// A node that the kernel knows, and how many look-ups of it it has not forgotten.
#[derive(Debug)]
struct Known {
    node: Node,
    lookups: u64,
}

/// An open file.
#[derive(Debug)]
struct Opened {
    node: Node,
    /// What was shown at the last read from the start. Locked while a function of the driver runs: one call at a time
    /// for each open file, as `kernfs_open_file.mutex` has it.
    page: Mutex<Option<Vec<u8>>>,
}

/// An open file or folder.
#[derive(Debug, Clone)]
enum Handle {
    File(Arc<Opened>),
    Folder(Arc<Vec<(String, u64, FileType)>>),
}

/// The file system.
pub struct Sysfs<B> {
    tree: Arc<Tree<B>>,
    writers: Writers,
    known: Mutex<HashMap<u64, Known>>,
    handles: Mutex<HashMap<u64, Handle>>,
    next: AtomicU64,
    mounted: SystemTime,
    owner: (u32, u32),
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn errno(Errno(number): Errno) -> fuser::Errno {
    fuser::Errno::from_i32(number)
}

/// Who asks. The name is read now, while the asker waits; one in another pid namespace has none.
fn writer(request: &Request) -> Writer {
    let pid = request.pid();
    let mut comm = [0; 16];
    if let Ok(text) = std::fs::read(format!("/proc/{pid}/comm")) {
        let text = text.strip_suffix(b"\n").unwrap_or(&text);
        let length = text.len().min(comm.len() - 1);
        comm[..length].copy_from_slice(&text[..length]);
    }
    Writer { pid, comm }
}

impl<B: Backend> Sysfs<B> {
    /// A file system; files belong to user and group `owner`.
    pub fn new(tree: Arc<Tree<B>>, writers: Writers, owner: (u32, u32)) -> Self {
        let root = Known {
            node: ROOT,
            lookups: 1,
        };
        Self {
            tree,
            writers,
            known: Mutex::new(HashMap::from([(ROOT.number(), root)])),
            handles: Mutex::default(),
            next: AtomicU64::new(FIRST_FILE),
            mounted: SystemTime::now(),
            owner,
        }
    }

    fn node(&self, number: INodeNo) -> Result<Node, Errno> {
        let known = locked(&self.known);
        let known = known.get(&number.0).ok_or(Errno(libc::ENOENT))?;
        Ok(known.node)
    }

    fn attributes(&self, node: Node) -> Result<FileAttr, Errno> {
        let (kind, perm, size) = match self.tree.kind(node)? {
            Kind::Folder => (FileType::Directory, 0o755, 0),
            Kind::Link => (FileType::Symlink, 0o777, 0),
            Kind::File(mode) => (FileType::RegularFile, mode, PAGE_SIZE as u64),
        };
        Ok(FileAttr {
            ino: INodeNo(node.number()),
            size,
            blocks: 0,
            atime: self.mounted,
            mtime: self.mounted,
            ctime: self.mounted,
            crtime: self.mounted,
            kind,
            perm,
            // Of a folder this says that its folders were not counted.
            nlink: 1,
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: PAGE_SIZE as u32,
            flags: 0,
        })
    }

    fn look_up(&self, parent: INodeNo, name: &OsStr) -> Result<FileAttr, Errno> {
        let name = name.to_str().ok_or(Errno(libc::ENOENT))?;
        let node = self.tree.lookup(self.node(parent)?, name)?;
        let mut attributes = self.attributes(node)?;
        if attributes.kind == FileType::RegularFile {
            attributes.ino = INodeNo(self.next.fetch_add(1, Ordering::Relaxed));
        }
        locked(&self.known)
            .entry(attributes.ino.0)
            .or_insert(Known { node, lookups: 0 })
            .lookups += 1;
        Ok(attributes)
    }

    fn keep(&self, handle: Handle) -> FileHandle {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        locked(&self.handles).insert(number, handle);
        FileHandle(number)
    }

    fn file(&self, handle: FileHandle) -> Result<Arc<Opened>, Errno> {
        match locked(&self.handles).get(&handle.0) {
            Some(Handle::File(file)) => Ok(Arc::clone(file)),
            _ => Err(Errno(libc::EBADF)),
        }
    }

    /// `cat (123) reads matrix`.
    fn describe(&self, who: &Writer, does: &str, file: Node) -> String {
        let end = who.comm.iter().position(|b| *b == 0);
        let name = String::from_utf8_lossy(&who.comm[..end.unwrap_or(who.comm.len())]);
        format!("{name} ({}) {does} {}", who.pid, self.tree.file_name(file))
    }

    fn read_folder(&self, number: INodeNo) -> Result<Handle, Errno> {
        let node = self.node(number)?;
        let parent = node.parent().unwrap_or(ROOT);
        let mut all = vec![
            (".".to_owned(), node.number(), FileType::Directory),
            ("..".to_owned(), parent.number(), FileType::Directory),
        ];
        for (name, node) in self.tree.list(node)? {
            let kind = match self.tree.kind(node) {
                Ok(Kind::Folder) => FileType::Directory,
                Ok(Kind::Link) => FileType::Symlink,
                Ok(Kind::File(_)) => FileType::RegularFile,
                // Gone since it was listed.
                Err(_) => continue,
            };
            all.push((name, node.number(), kind));
        }
        Ok(Handle::Folder(Arc::new(all)))
    }
}

/// Shows a file, or what is left of what it showed.
fn read<B: Backend>(
    tree: &Tree<B>,
    file: &Opened,
    offset: u64,
    size: u32,
    reader: &Writer,
) -> Result<Vec<u8>, Errno> {
    let mut page = locked(&file.page);
    // seq_read_iter: reading from the start shows again, reading on gives the rest.
    if offset == 0 || page.is_none() {
        *page = None;
        *page = Some(tree.show(file.node, reader)?);
    }
    let bytes = page.as_deref().unwrap_or_default();
    let start = usize::try_from(offset).map_or(bytes.len(), |o| o.min(bytes.len()));
    let end = bytes.len().min(start.saturating_add(size as usize));
    Ok(bytes[start..end].to_vec())
}

impl<B: Backend> Filesystem for Sysfs<B> {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without it, look-ups in a folder would wait for each other. Old kernels do without.
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.look_up(parent, name) {
            Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, nlookup: u64) {
        let mut known = locked(&self.known);
        if let Some(node) = known.get_mut(&ino.0)
            && ino.0 != ROOT.number()
        {
            node.lookups = node.lookups.saturating_sub(nlookup);
            if node.lookups == 0 {
                known.remove(&ino.0);
            }
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.node(ino).and_then(|node| self.attributes(node)) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(error) => reply.error(errno(error)),
        }
    }

    // The shell's `>` truncates, `touch` sets times: allowed, without effect. Owner and mode stay.
    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if mode.is_some() || uid.is_some() || gid.is_some() {
            reply.error(fuser::Errno::EPERM);
        } else {
            self.getattr(req, ino, fh, reply);
        }
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        match self.node(ino).and_then(|node| self.tree.target(node)) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (read, write) = match flags.acc_mode() {
            OpenAccMode::O_RDONLY => (true, false),
            OpenAccMode::O_WRONLY => (false, true),
            OpenAccMode::O_RDWR => (true, true),
        };
        let opened = self.node(ino).and_then(|node| {
            self.tree.open(node, read, write)?;
            let page = Mutex::default();
            Ok(Handle::File(Arc::new(Opened { node, page })))
        });
        match opened {
            Ok(handle) => reply.opened(
                self.keep(handle),
                FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES,
            ),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let file = match self.file(fh) {
            Ok(file) => file,
            Err(error) => return reply.error(errno(error)),
        };
        let tree = Arc::clone(&self.tree);
        let reader = writer(req);
        let what = self.describe(&reader, "reads", file.node);
        // A call that is not begun drops the reply, which answers EIO.
        let run = Box::new(move || match read(&tree, &file, offset, size, &reader) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(error)),
        });
        let _ = self.writers.run(Job { what, run });
    }

    fn write(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let file = match self.file(fh) {
            Ok(file) => file,
            Err(error) => return reply.error(errno(error)),
        };
        let tree = Arc::clone(&self.tree);
        let writer = writer(req);
        let data = data[..data.len().min(PAGE_SIZE)].to_vec();
        let what = self.describe(&writer, "writes", file.node);
        let run = Box::new(move || {
            let _one_at_a_time = locked(&file.page);
            match tree.write(file.node, &data, &writer) {
                Ok(count) => reply.written(count as u32),
                Err(error) => reply.error(errno(error)),
            }
        });
        let _ = self.writers.run(Job { what, run });
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        // The kernel does not ask again.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        locked(&self.handles).remove(&fh.0);
        reply.ok();
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match self.read_folder(ino) {
            Ok(handle) => reply.opened(self.keep(handle), FopenFlags::empty()),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let Some(Handle::Folder(all)) = locked(&self.handles).get(&fh.0).cloned() else {
            return reply.error(fuser::Errno::EBADF);
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (n, (name, number, kind)) in all.iter().enumerate().skip(start) {
            if reply.add(INodeNo(*number), n as u64 + 1, *kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        locked(&self.handles).remove(&fh.0);
        reply.ok();
    }

    // Sysfs has no operation for any of these: what the kernel answers in their place.
    fn mknod(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(fuser::Errno::EPERM);
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(fuser::Errno::EACCES);
    }

    fn mkdir(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(fuser::Errno::EPERM);
    }

    fn unlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(fuser::Errno::EPERM);
    }

    fn rmdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(fuser::Errno::EPERM);
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::EPERM);
    }
}

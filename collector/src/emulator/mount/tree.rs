//! The tree: which nodes there are, what a file says, what a write does. No FUSE here, and no threads.
//!
//! Names, links and modes are the kernel's. Files behave as kernfs and sysfs make them behave (fs/kernfs/file.c and
//! fs/sysfs/file.c, v5.19): a write is at most one page and its offset means nothing, a show function has one page, an
//! attribute of a device that is gone answers `ENODEV`, and a device goes only when no function of its attributes runs.

use super::active::Active;
use super::backend::Writer;
use super::backend::{Backend, Mask};
use super::node::{self, Children, DRIVERS, FIXED, Fixed, Kind, Node, TYPE, card_name, queue_name};
use crate::emulator::driver::sysfs::kstrtoul;
use crate::emulator::hardware::Hardware;
use crate::emulator::mdev;

/// `PAGE_SIZE` of s390 and x86-64, and the size that `stat` tells of an attribute.
pub const PAGE_SIZE: usize = 4096;
/// Length of a UUID as text: `UUID_STRING_LEN`.
const UUID_LENGTH: usize = 36;

/// A positive errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// What a function of the driver returned, as user space sees it. The kernel's internal numbers from `ERESTARTSYS`
    /// (512) on never reach user space: the call is restarted or interrupted.
    fn of(negative: i64) -> Self {
        let positive = i32::try_from(negative.saturating_neg()).unwrap_or(libc::EIO);
        Self(if positive >= 512 {
            libc::EINTR
        } else {
            positive.max(1)
        })
    }
}

type Result<T> = std::result::Result<T, Errno>;

const ENOENT: Errno = Errno(libc::ENOENT);
const ENODEV: Errno = Errno(libc::ENODEV);
const EINVAL: Errno = Errno(libc::EINVAL);

/// The tree in front of a driver.
#[derive(Debug)]
pub struct Tree<B> {
    backend: B,
    active: Active,
}

impl<B: Backend> Tree<B> {
    /// A tree.
    pub fn new(backend: B) -> Self {
        Self {
            backend,
            active: Active::default(),
        }
    }

    /// The driver.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// A node's kind; `ENOENT` if it is gone.
    pub fn kind(&self, node: Node) -> Result<Kind> {
        let here = |is: bool, kind| if is { Ok(kind) } else { Err(ENOENT) };
        // While a device is being removed its attributes and its type's link are gone, its folder is not.
        let whole = |id| self.backend.exists(id) && !self.is_going(id);
        let has_queue = |apqn| self.backend.has_queue(apqn);
        match node {
            Node::Fixed(place) => match FIXED.get(usize::from(place)).ok_or(ENOENT)?.what {
                Fixed::Folder(_) => Ok(Kind::Folder),
                Fixed::Link(_) => Ok(Kind::Link),
                Fixed::Create => Ok(Kind::File(0o200)),
                Fixed::Text(_) | Fixed::Available => Ok(Kind::File(0o444)),
                Fixed::Mask(_) => Ok(Kind::File(0o644)),
            },
            Node::Mdev(id) => here(self.backend.exists(id), Kind::Folder),
            Node::Attribute(id, attribute) => {
                let file = self.backend.attributes().get(usize::from(attribute));
                here(whole(id), Kind::File(file.ok_or(ENOENT)?.mode))
            }
            Node::Remove(id) => here(whole(id), Kind::File(0o200)),
            Node::MdevType(id) | Node::OnBus(id) | Node::OfType(id) => here(whole(id), Kind::Link),
            Node::Card(card) => here(self.backend.cards().contains(&card), Kind::Folder),
            Node::CardOnBus(card) => here(self.backend.cards().contains(&card), Kind::Link),
            Node::CardType(card) => here(self.backend.cards().contains(&card), Kind::File(0o444)),
            Node::Queue(apqn) => here(has_queue(apqn), Kind::Folder),
            Node::QueueOnBus(apqn) => here(has_queue(apqn), Kind::Link),
            Node::QueueOfDriver(apqn) | Node::Driver(apqn) => here(
                has_queue(apqn) && self.backend.driver_of(apqn).is_some(),
                Kind::Link,
            ),
            Node::Status(apqn) => here(self.has_status(apqn), Kind::File(0o444)),
        }
    }

    fn is_going(&self, id: u64) -> bool {
        self.active.is_going(id) || self.backend.is_going(id)
    }

    fn has_status(&self, apqn: u16) -> bool {
        self.backend.has_status()
            && self.backend.has_queue(apqn)
            && self.backend.driver_of(apqn) == Some(DRIVERS[0])
    }

    /// The node with this name in a folder.
    pub fn lookup(&self, folder: Node, name: &str) -> Result<Node> {
        if self.kind(folder)? != Kind::Folder {
            return Err(Errno(libc::ENOTDIR));
        }
        let found = match folder {
            Node::Fixed(place) => self.lookup_fixed(place, name),
            Node::Mdev(id) => self
                .in_mdev(id)
                .into_iter()
                .find(|(n, _)| n == name)
                .map(|(_, node)| node),
            Node::Card(card) if name == "type" => Some(Node::CardType(card)),
            Node::Card(card) => node::parse_queue(name)
                .filter(|apqn| apqn >> 8 == u16::from(card))
                .map(Node::Queue),
            Node::Queue(apqn) => match name {
                "driver" => Some(Node::Driver(apqn)),
                "status" => Some(Node::Status(apqn)),
                _ => None,
            },
            _ => None,
        };
        let node = found.ok_or(ENOENT)?;
        self.kind(node).map(|_| node)
    }

    fn lookup_fixed(&self, place: u8, name: &str) -> Option<Node> {
        let row = FIXED.get(usize::from(place))?;
        let mdev = |make: fn(u64) -> Node| self.backend.mdev(name).map(|mdev| make(mdev.id));
        let child = match row.what {
            Fixed::Folder(Children::Mdevs) => mdev(Node::Mdev),
            Fixed::Folder(Children::MdevsOnBus) => mdev(Node::OnBus),
            Fixed::Folder(Children::MdevsOfType) => mdev(Node::OfType),
            Fixed::Folder(Children::Cards) => node::parse_card(name).map(Node::Card),
            Fixed::Folder(Children::DevicesOnBus) => node::parse_card(name)
                .map(Node::CardOnBus)
                .or_else(|| node::parse_queue(name).map(Node::QueueOnBus)),
            Fixed::Folder(Children::QueuesOfDriver(driver)) => node::parse_queue(name)
                .filter(|apqn| {
                    self.backend.driver_of(*apqn) == DRIVERS.get(usize::from(driver)).copied()
                })
                .map(Node::QueueOfDriver),
            _ => None,
        };
        child.or_else(|| {
            (1..FIXED.len())
                .find(|n| FIXED[*n].parent == place && FIXED[*n].name == name)
                .map(|n| Node::Fixed(n as u8))
        })
    }

    fn in_mdev(&self, id: u64) -> Vec<(String, Node)> {
        if self.is_going(id) {
            return Vec::new();
        }
        let files = self.backend.attributes().iter().enumerate();
        files
            .map(|(n, file)| (file.name.to_owned(), Node::Attribute(id, n as u8)))
            .chain([
                ("remove".to_owned(), Node::Remove(id)),
                ("mdev_type".to_owned(), Node::MdevType(id)),
            ])
            .collect()
    }

    /// Names and nodes in a folder.
    pub fn list(&self, folder: Node) -> Result<Vec<(String, Node)>> {
        if self.kind(folder)? != Kind::Folder {
            return Err(Errno(libc::ENOTDIR));
        }
        Ok(match folder {
            Node::Fixed(place) => self.list_fixed(place),
            Node::Mdev(id) => self.in_mdev(id),
            Node::Card(card) => self
                .queues(|apqn| apqn >> 8 == u16::from(card), Node::Queue)
                .chain([("type".to_owned(), Node::CardType(card))])
                .collect(),
            Node::Queue(apqn) => [
                ("driver", Node::Driver(apqn)),
                ("status", Node::Status(apqn)),
            ]
            .into_iter()
            .filter(|(_, node)| self.kind(*node).is_ok())
            .map(|(name, node)| (name.to_owned(), node))
            .collect(),
            _ => Vec::new(),
        })
    }

    fn list_fixed(&self, place: u8) -> Vec<(String, Node)> {
        let mut all: Vec<(String, Node)> = (1..FIXED.len())
            .filter(|n| FIXED[*n].parent == place)
            .map(|n| (FIXED[n].name.to_owned(), Node::Fixed(n as u8)))
            .collect();
        let Some(Fixed::Folder(children)) = Node::Fixed(place).fixed() else {
            return all;
        };
        let mdevs = |make: fn(u64) -> Node| {
            let mdevs = self.backend.mdevs().into_iter();
            mdevs.map(move |mdev| (mdev.uuid, make(mdev.id)))
        };
        let cards = |make: fn(u8) -> Node| {
            let cards = self.backend.cards().into_iter();
            cards.map(move |card| (card_name(card), make(card)))
        };
        match children {
            Children::None => {}
            Children::Mdevs => all.extend(mdevs(Node::Mdev)),
            Children::MdevsOnBus | Children::MdevsOfType => {
                let make = if children == Children::MdevsOnBus {
                    Node::OnBus
                } else {
                    Node::OfType
                };
                all.extend(mdevs(make).filter(|(_, node)| self.kind(*node).is_ok()));
            }
            Children::Cards => all.extend(cards(Node::Card)),
            Children::DevicesOnBus => {
                all.extend(cards(Node::CardOnBus));
                all.extend(self.queues(|_| true, Node::QueueOnBus));
            }
            Children::QueuesOfDriver(driver) => {
                let driver = DRIVERS.get(usize::from(driver)).copied();
                let bound = |apqn| self.backend.driver_of(apqn) == driver;
                all.extend(self.queues(bound, Node::QueueOfDriver));
            }
        }
        all
    }

    fn queues(
        &self,
        wanted: impl Fn(u16) -> bool,
        make: fn(u16) -> Node,
    ) -> impl Iterator<Item = (String, Node)> {
        let queues = self.backend.queues().into_iter();
        queues
            .filter(move |apqn| wanted(*apqn))
            .map(move |apqn| (queue_name(apqn), make(apqn)))
    }

    /// Where a link leads, relative to the folder it is in.
    pub fn target(&self, link: Node) -> Result<String> {
        if self.kind(link)? != Kind::Link {
            return Err(EINVAL);
        }
        let uuid = |id| {
            let mdevs = self.backend.mdevs().into_iter();
            mdevs
                .map(|mdev| (mdev.id, mdev.uuid))
                .find(|(i, _)| *i == id)
                .map(|(_, uuid)| uuid)
                .ok_or(ENOENT)
        };
        let queue = |apqn: u16| format!("{}/{}", card_name((apqn >> 8) as u8), queue_name(apqn));
        match link {
            Node::Fixed(_) => match link.fixed() {
                Some(Fixed::Link(target)) => Ok(target.to_owned()),
                _ => Err(EINVAL),
            },
            Node::OnBus(id) => Ok(format!("../../../devices/vfio_ap/matrix/{}", uuid(id)?)),
            Node::OfType(id) => Ok(format!("../../../{}", uuid(id)?)),
            Node::MdevType(_) => Ok(format!("../mdev_supported_types/{TYPE}")),
            Node::CardOnBus(card) => Ok(format!("../../../devices/ap/{}", card_name(card))),
            Node::QueueOnBus(apqn) => Ok(format!("../../../devices/ap/{}", queue(apqn))),
            Node::QueueOfDriver(apqn) => Ok(format!("../../../../devices/ap/{}", queue(apqn))),
            Node::Driver(apqn) => {
                let driver = self.backend.driver_of(apqn).ok_or(ENOENT)?;
                Ok(format!("../../../../bus/ap/drivers/{driver}"))
            }
            _ => Err(EINVAL),
        }
    }

    /// Opens a file. Root passes the permission bits, but not this: `KERNFS_ROOT_EXTRA_OPEN_PERM_CHECK`, which sysfs
    /// sets, refuses to read what nobody may read, and to write what nobody may write.
    pub fn open(&self, file: Node, read: bool, write: bool) -> Result<()> {
        match self.kind(file)? {
            Kind::Folder => Err(Errno(libc::EISDIR)),
            Kind::Link => Err(Errno(libc::ELOOP)),
            Kind::File(mode) if (read && mode & 0o444 == 0) || (write && mode & 0o222 == 0) => {
                Err(Errno(libc::EACCES))
            }
            Kind::File(_) => Ok(()),
        }
    }

    /// Name of a file.
    pub fn file_name(&self, file: Node) -> &'static str {
        match file {
            Node::Fixed(place) => FIXED.get(usize::from(place)).map_or("", |row| row.name),
            Node::Attribute(_, attribute) => {
                let file = self.backend.attributes().get(usize::from(attribute));
                file.map_or("", |file| file.name)
            }
            Node::Remove(_) => "remove",
            Node::Status(_) => "status",
            Node::CardType(_) => "type",
            _ => "",
        }
    }

    /// What a file says: at most a page less one byte, as `sysfs_kf_seq_show` cuts it.
    pub fn show(&self, file: Node, reader: &Writer) -> Result<Vec<u8>> {
        let shown = match file {
            Node::Fixed(_) => match file.fixed() {
                Some(Fixed::Text(text)) => Ok(text.as_bytes().to_vec()),
                Some(Fixed::Available) => {
                    Ok(format!("{}\n", self.backend.available_instances()).into_bytes())
                }
                Some(Fixed::Mask(mask)) => self.backend.show_mask(mask, reader),
                _ => return Err(EINVAL),
            },
            Node::Attribute(id, attribute) => {
                let _running = self.enter(id)?;
                self.backend.show(id, attribute.into(), reader)
            }
            Node::Status(apqn) if self.has_status(apqn) => self.backend.show_status(apqn, reader),
            Node::Status(_) => return Err(ENODEV),
            Node::CardType(card) => {
                Ok(format!("{}\n", Hardware::card_type(card.into())).into_bytes())
            }
            _ => return Err(EINVAL),
        };
        let mut bytes = shown.map_err(Errno::of)?;
        bytes.truncate(PAGE_SIZE - 1);
        Ok(bytes)
    }

    /// A function of the device's attributes begins; until the answer is dropped the device stays.
    fn enter(&self, id: u64) -> Result<super::active::Running<'_>> {
        let running = self.active.enter(id).ok_or(ENODEV)?;
        // Looked at when it can no longer go.
        if self.backend.exists(id) && !self.backend.is_going(id) {
            Ok(running)
        } else {
            Err(ENODEV)
        }
    }

    /// Writes to a file; the number of bytes taken. `kernfs_fop_write_iter` takes a page at most and leaves the rest to
    /// the writer's next call, which is a write of its own.
    pub fn write(&self, file: Node, bytes: &[u8], writer: &Writer) -> Result<usize> {
        let bytes = &bytes[..bytes.len().min(PAGE_SIZE)];
        // sysfs_kf_write: nothing is no call of the store function.
        if bytes.is_empty() {
            return Ok(0);
        }
        let stored = match file {
            Node::Fixed(_) => match file.fixed() {
                Some(Fixed::Create) => return self.create(bytes, writer),
                Some(Fixed::Mask(mask)) => self.store_mask(mask, bytes, writer),
                _ => return Err(EINVAL),
            },
            Node::Attribute(id, attribute) => {
                let _running = self.enter(id)?;
                self.backend.store(id, attribute.into(), bytes, writer)
            }
            Node::Remove(id) => return self.remove(id, bytes, writer),
            _ => return Err(EINVAL),
        };
        match usize::try_from(stored) {
            Ok(count) => Ok(count.min(bytes.len())),
            Err(_) => Err(Errno::of(stored)),
        }
    }

    fn store_mask(&self, mask: Mask, bytes: &[u8], writer: &Writer) -> i64 {
        self.backend.store_mask(mask, bytes, writer)
    }

    /// `create_store` of the mdev core, v5.19. `guid_parse` looks at the UUID only, so what stands in the place of the
    /// line end does not matter.
    fn create(&self, bytes: &[u8], writer: &Writer) -> Result<usize> {
        if !(UUID_LENGTH..=UUID_LENGTH + 1).contains(&bytes.len()) {
            return Err(EINVAL);
        }
        let uuid = mdev::parse_uuid(&bytes[..UUID_LENGTH]).ok_or(EINVAL)?;
        match self.backend.create(&uuid, writer) {
            0 => Ok(bytes.len()),
            ret => Err(Errno::of(ret.into())),
        }
    }

    /// `remove_store` of the mdev core, v5.19: any number but 0 removes. The file removes itself first; a writer who
    /// comes second waits for the first and has nothing left to do.
    fn remove(&self, id: u64, bytes: &[u8], writer: &Writer) -> Result<usize> {
        if !self.backend.exists(id) {
            return Err(ENODEV);
        }
        let text = bytes.split(|b| *b == 0).next().unwrap_or_default();
        let number = kstrtoul(text).map_err(|_| EINVAL)?;
        if number != 0
            && let Some(_going) = self.active.go(id)
        {
            let ret = self.backend.remove(id, writer);
            if ret != 0 {
                return Err(Errno::of(ret.into()));
            }
        }
        Ok(bytes.len())
    }
}

//! Nodes of the tree: what each stands for, its inode number, and where in the tree it is.
//!
//! Nothing here asks the driver: whether a node exists at the moment is [`super::tree`]'s business.

use super::backend::Mask;

/// Name of the only mdev type, `<driver>-<type>`: `mdev_type_add`, v6.1.
pub const TYPE: &str = "vfio_ap-passthrough";
/// Drivers on the AP bus.
pub const DRIVERS: [&str; 2] = ["vfio_ap", "cex4queue"];

/// A node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Node {
    /// Always there: a place in [`FIXED`].
    Fixed(u8),
    /// Folder of a mediated device, `devices/vfio_ap/matrix/<uuid>`.
    Mdev(u64),
    /// Its attribute with this number.
    Attribute(u64, u8),
    /// Its `remove`.
    Remove(u64),
    /// Its link `mdev_type`.
    MdevType(u64),
    /// Link to it in `bus/mdev/devices`.
    OnBus(u64),
    /// Link to it in the type's `devices`.
    OfType(u64),
    /// Folder of an adapter, `devices/ap/cardXX`.
    Card(u8),
    /// Link to it in `bus/ap/devices`.
    CardOnBus(u8),
    /// Folder of a queue, `devices/ap/cardXX/XX.YYYY`.
    Queue(u16),
    /// Link to it in `bus/ap/devices`.
    QueueOnBus(u16),
    /// Link to it in `bus/ap/drivers/<driver>`.
    QueueOfDriver(u16),
    /// Its link `driver`.
    Driver(u16),
    /// Its `status`.
    Status(u16),
    /// An adapter's `type`.
    CardType(u8),
}

/// What a node that is always there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fixed {
    /// A folder, with nodes that come and go, or without.
    Folder(Children),
    /// A link.
    Link(&'static str),
    /// `create`.
    Create,
    /// A file that always says the same.
    Text(&'static str),
    /// `available_instances`.
    Available,
    /// `apmask`, `aqmask`.
    Mask(Mask),
}

/// Nodes in a folder that come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Children {
    /// None.
    None,
    /// [`Node::Mdev`].
    Mdevs,
    /// [`Node::OnBus`].
    MdevsOnBus,
    /// [`Node::OfType`].
    MdevsOfType,
    /// [`Node::Card`].
    Cards,
    /// [`Node::CardOnBus`] and [`Node::QueueOnBus`].
    DevicesOnBus,
    /// [`Node::QueueOfDriver`] of this place in [`DRIVERS`].
    QueuesOfDriver(u8),
}

/// A row of [`FIXED`].
#[derive(Debug)]
pub struct Row {
    /// Place of the folder it is in; the root's is its own.
    pub parent: u8,
    /// Name.
    pub name: &'static str,
    /// What it is.
    pub what: Fixed,
}

const fn row(parent: u8, name: &'static str, what: Fixed) -> Row {
    Row { parent, name, what }
}

const fn folder(parent: u8, name: &'static str) -> Row {
    row(parent, name, Fixed::Folder(Children::None))
}

const fn holding(parent: u8, name: &'static str, children: Children) -> Row {
    row(parent, name, Fixed::Folder(children))
}

/// The root of the tree.
pub const ROOT: Node = Node::Fixed(0);
/// `devices/vfio_ap/matrix`.
pub const MATRIX: u8 = 16;
/// `devices/ap`.
pub const AP: u8 = 24;

/// The nodes that are always there. Texts as in vfio_ap_ops.c and vfio.h, the same in all releases.
pub static FIXED: [Row; 25] = [
    folder(0, ""),
    folder(0, "bus"),
    folder(1, "mdev"),
    holding(2, "devices", Children::MdevsOnBus),
    folder(1, "ap"),
    row(4, "apmask", Fixed::Mask(Mask::Adapters)),
    row(4, "aqmask", Fixed::Mask(Mask::Domains)),
    holding(4, "devices", Children::DevicesOnBus),
    folder(4, "drivers"),
    holding(8, DRIVERS[0], Children::QueuesOfDriver(0)),
    holding(8, DRIVERS[1], Children::QueuesOfDriver(1)),
    folder(0, "class"),
    folder(11, "mdev_bus"),
    row(12, "matrix", Fixed::Link("../../devices/vfio_ap/matrix")),
    folder(0, "devices"),
    folder(14, "vfio_ap"),
    holding(15, "matrix", Children::Mdevs),
    folder(16, "mdev_supported_types"),
    folder(17, TYPE),
    row(18, "create", Fixed::Create),
    row(18, "name", Fixed::Text("VFIO AP Passthrough Device\n")),
    row(18, "device_api", Fixed::Text("vfio-ap\n")),
    row(18, "available_instances", Fixed::Available),
    holding(18, "devices", Children::MdevsOfType),
    holding(14, "ap", Children::Cards),
];

/// Kind of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A file with these permission bits.
    File(u16),
}

/// Name of an adapter's folder.
pub fn card_name(card: u8) -> String {
    format!("card{card:02x}")
}

/// Name of a queue's folder.
pub fn queue_name(apqn: u16) -> String {
    format!("{:02x}.{:04x}", apqn >> 8, apqn & 0xff)
}

/// The adapter that [`card_name`] gives this name.
pub fn parse_card(name: &str) -> Option<u8> {
    let card = u8::from_str_radix(name.strip_prefix("card")?, 16).ok()?;
    (card_name(card) == name).then_some(card)
}

/// The queue that [`queue_name`] gives this name.
pub fn parse_queue(name: &str) -> Option<u16> {
    let (card, domain) = name.split_once('.')?;
    let card = u16::from_str_radix(card, 16).ok()?;
    let domain = u16::from_str_radix(domain, 16).ok()?;
    let apqn = (card & 0xff) << 8 | domain & 0xff;
    (queue_name(apqn) == name).then_some(apqn)
}

impl Node {
    /// What it is, if it is always there.
    pub fn fixed(self) -> Option<Fixed> {
        match self {
            Self::Fixed(place) => FIXED.get(usize::from(place)).map(|row| row.what),
            _ => None,
        }
    }

    /// Inode number: different for every node, the same as long as the node exists, never 0. The root's is 1.
    pub fn number(self) -> u64 {
        // Bit 63: a mediated device, with its number above the kind and the attribute. Bit 32: something on the AP bus.
        let of_mdev = |id: u64, part: u8| 1 << 63 | (id & ((1 << 47) - 1)) << 8 | u64::from(part);
        let on_bus = |kind: u64, number: u16| 1 << 32 | kind << 16 | u64::from(number);
        match self {
            Self::Fixed(place) => u64::from(place) + 1,
            // Attributes have the parts up to 200.
            Self::Attribute(id, attribute) => of_mdev(id, attribute),
            Self::Mdev(id) => of_mdev(id, 250),
            Self::Remove(id) => of_mdev(id, 251),
            Self::MdevType(id) => of_mdev(id, 252),
            Self::OnBus(id) => of_mdev(id, 253),
            Self::OfType(id) => of_mdev(id, 254),
            Self::Card(card) => on_bus(0, card.into()),
            Self::CardOnBus(card) => on_bus(1, card.into()),
            Self::Queue(apqn) => on_bus(2, apqn),
            Self::QueueOnBus(apqn) => on_bus(3, apqn),
            Self::QueueOfDriver(apqn) => on_bus(4, apqn),
            Self::Driver(apqn) => on_bus(5, apqn),
            Self::Status(apqn) => on_bus(6, apqn),
            Self::CardType(card) => on_bus(7, card.into()),
        }
    }

    /// The folder that it is in; the root's is itself. `None` for a queue in a driver's folder, which depends on the
    /// driver.
    pub fn parent(self) -> Option<Self> {
        Some(match self {
            Self::Fixed(place) => {
                Self::Fixed(FIXED.get(usize::from(place)).map_or(0, |row| row.parent))
            }
            Self::Mdev(_) => Self::Fixed(MATRIX),
            Self::Attribute(id, _) | Self::Remove(id) | Self::MdevType(id) => Self::Mdev(id),
            Self::Card(_) => Self::Fixed(AP),
            Self::Queue(apqn) => Self::Card((apqn >> 8) as u8),
            Self::CardType(card) => Self::Card(card),
            Self::Driver(apqn) | Self::Status(apqn) => Self::Queue(apqn),
            Self::OnBus(_) => Self::holding(Children::MdevsOnBus)?,
            Self::OfType(_) => Self::holding(Children::MdevsOfType)?,
            Self::CardOnBus(_) | Self::QueueOnBus(_) => Self::holding(Children::DevicesOnBus)?,
            Self::QueueOfDriver(_) => return None,
        })
    }

    fn holding(children: Children) -> Option<Self> {
        FIXED
            .iter()
            .position(|row| row.what == Fixed::Folder(children))
            .map(|place| Self::Fixed(place as u8))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_table_is_consistent() {
        for (place, row) in FIXED.iter().enumerate() {
            assert!(usize::from(row.parent) <= place, "{}", row.name);
            let parent = FIXED[usize::from(row.parent)].what;
            assert!(matches!(parent, Fixed::Folder(_)), "{}", row.name);
        }
        assert_eq!(FIXED[usize::from(MATRIX)].name, "matrix");
        assert_eq!(FIXED[usize::from(AP)].name, "ap");
        assert_eq!(ROOT.number(), 1);
    }

    #[test]
    fn every_node_has_a_number_of_its_own() {
        let mut all: Vec<Node> = (0..FIXED.len() as u8).map(Node::Fixed).collect();
        for id in [0, 1, 0x7fff_1234_5678 & ((1 << 47) - 1)] {
            all.extend((0..=200).map(|a| Node::Attribute(id, a)));
            all.extend([
                Node::Mdev(id),
                Node::Remove(id),
                Node::MdevType(id),
                Node::OnBus(id),
                Node::OfType(id),
            ]);
        }
        for n in [0, 1, 255] {
            all.extend([Node::Card(n), Node::CardOnBus(n), Node::CardType(n)]);
        }
        for n in [0, 1, 255, 256, 65535] {
            all.extend([
                Node::Queue(n),
                Node::QueueOnBus(n),
                Node::QueueOfDriver(n),
                Node::Driver(n),
                Node::Status(n),
            ]);
        }
        let numbers: BTreeSet<u64> = all.iter().map(|n| n.number()).collect();
        assert_eq!(numbers.len(), all.len());
        assert!(!numbers.contains(&0));
    }

    #[test]
    fn names_of_adapters_and_queues_are_the_buss() {
        assert_eq!(card_name(0x0a), "card0a");
        assert_eq!(queue_name(0x0a13), "0a.0013");
        assert_eq!(parse_card("card0a"), Some(0x0a));
        assert_eq!(parse_queue("0a.0013"), Some(0x0a13));
        for name in ["card", "carda", "card0A", "card100", "card+1", "ard01"] {
            assert_eq!(parse_card(name), None, "{name}");
        }
        for name in [
            "", ".", "0a.13", "0a.0100", "+a.0001", "0A.0013", "10a.0001",
        ] {
            assert_eq!(parse_queue(name), None, "{name}");
        }
    }
}

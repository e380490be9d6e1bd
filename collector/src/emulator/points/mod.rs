//! The probe points: functions with the kernel's names, one for each (module, symbol).
//!
//! On x86-64 a point is a naked function: a 5-byte nop, which a uprobe replaces without a breakpoint, then a jump to
//! the implementation, so that the return address on the stack is the caller's and return probes work. The
//! alignment keeps the nop inside one page. Elsewhere a point is a plain function that is never inlined. Each
//! implementation first calls the in-process hook of the same event, then does its work. Every lock operation and
//! every call of the driver goes through a point.

pub mod kernel;
pub mod kvm;
pub mod vfio_ap;

/// The 5-byte nop at the start of each point.
pub const NOP5: [u8; 5] = [0x0f, 0x1f, 0x44, 0x00, 0x00];

/// A thread name, padded with zeros.
pub type Comm = [u8; 16];

/// Who writes to or reads from a file of the sysfs, where a thread of the file system does it in that task's name.
/// Points that the sysfs reaches have the two fields as their arguments 5 and 6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writer {
    /// Process id; 0: the calling thread itself.
    pub pid: u32,
    /// Its name.
    pub comm: Comm,
}

impl Writer {
    /// The calling thread itself.
    pub const SELF: Self = Self {
        pid: 0,
        comm: [0; 16],
    };

    /// The pid, as an argument.
    pub fn pid(&self) -> u64 {
        self.pid.into()
    }
}

/// A point's name and address.
#[derive(Debug, Clone, Copy)]
pub struct PointAddress {
    /// `kernel`, `vfio_ap` or `kvm`.
    pub module: &'static str,
    /// The kernel's name.
    pub symbol: &'static str,
    /// Address of the first instruction.
    pub address: usize,
}

/// All points of all modules.
pub fn all() -> Vec<PointAddress> {
    [kernel::points(), vfio_ap::points(), kvm::points()].concat()
}

/// Defines the points of a module: `name(arguments) -> type = implementation;`.
macro_rules! points {
    ($module:literal; $($(#[$doc:meta])* $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? = $implementation:path;)*) => {
        $(
            $(#[$doc])*
            #[cfg(target_arch = "x86_64")]
            #[unsafe(naked)]
            pub extern "C" fn $name($($arg: $ty),*) $(-> $ret)? {
                core::arch::naked_asm!(
                    ".p2align 4",
                    ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00",
                    "jmp {implementation}",
                    implementation = sym $implementation,
                )
            }

            $(#[$doc])*
            #[cfg(not(target_arch = "x86_64"))]
            #[inline(never)]
            pub extern "C" fn $name($($arg: $ty),*) $(-> $ret)? {
                $implementation($($arg),*)
            }
        )*

        /// Addresses of this module's points.
        pub fn points() -> Vec<$crate::emulator::points::PointAddress> {
            vec![$(
                $crate::emulator::points::PointAddress {
                    module: $module,
                    symbol: stringify!($name),
                    address: $name as *const () as usize,
                },
            )*]
        }
    };
}
pub(crate) use points;

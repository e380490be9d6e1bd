//! Texts that people save when something hangs: hung-task reports, sysrq-w and sysrq-t, /proc/*/stack, crash's
//! `foreach bt`, mixed as they come.
//!
//! Takes a text, gives the tasks in it. Bounded; lines that mean nothing are passed over, and what could not be kept is
//! in the notes. Does not know what functions mean.

mod line;
mod read;

pub(crate) use line::content;
pub use read::parse;

/// Bytes of a text that are read.
pub const MAX_TEXT: usize = 64 << 20;
/// Bytes of a line that are read.
pub const MAX_LINE: usize = 4096;
/// Tasks.
pub const MAX_TASKS: usize = 16_384;
/// Frames of a task.
pub const MAX_FRAMES: usize = 64;
/// Bytes of a name.
pub const MAX_NAME: usize = 128;
/// Messages of the driver: the last of them.
pub const MAX_MESSAGES: usize = 256;
/// Notes of each kind.
const MAX_NOTES: usize = 32;

/// What was in a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Tasks with a stack or a statement about them, in the order of their first mention; each thread id once.
    pub tasks: Vec<Task>,
    /// The kernel's release, where the text has it.
    pub kernel_release: Option<String>,
    /// What the driver says of resets that it polls, in the order of the text.
    pub messages: Vec<String>,
    /// What was passed over, and why.
    pub notes: Vec<String>,
}

/// A task.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Task {
    /// Thread name; empty if the text has none.
    pub comm: String,
    /// Thread id; never 0.
    pub tid: u32,
    /// Thread group id: printed since v6.9, and in /proc's paths.
    pub tgid: Option<u32>,
    /// The parent's process id.
    pub ppid: Option<u32>,
    /// State letter, as ps has it.
    pub state: Option<char>,
    /// Blocked for at least so long, as the hung-task detector says.
    pub blocked_for_s: Option<u64>,
    /// Innermost first.
    pub frames: Vec<Frame>,
    /// What the kernel says it is blocked on.
    pub blocker: Option<Blocker>,
    /// Whether its stack was saved several times.
    pub saved: Saved,
}

/// How the stacks of one task, saved one after the other, compare.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Saved {
    /// There is one, or they were saved in ways that cannot be compared.
    #[default]
    Once,
    /// All are the same.
    Same,
    /// They are not: it has run in between.
    Moved,
}

/// A frame of a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The symbol, with a compiler's suffixes (`.part.0`).
    pub symbol: String,
    /// Offset in the function.
    pub offset: Option<u64>,
    /// The module; none for the kernel itself, and where the text leaves it out.
    pub module: Option<String>,
    /// The unwinder vouches for it.
    pub reliable: bool,
}

/// What `debug_show_blocker()` prints (kernel/hung_task.c, v6.16 for mutexes, rw-semaphores later).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocker {
    /// What kind of lock, and how it is waited for.
    pub kind: BlockerKind,
    /// Name of the likely owner.
    pub comm: String,
    /// Its thread id.
    pub tid: u32,
}

/// What kind of lock a task is blocked on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockerKind {
    /// A mutex.
    Mutex,
    /// A semaphore; its "owner" is who took it last.
    Semaphore,
    /// An rw-semaphore, as a reader.
    RwsemReader,
    /// An rw-semaphore, as a writer.
    RwsemWriter,
}

impl std::fmt::Display for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if !self.reliable {
            f.write_str("? ")?;
        }
        f.write_str(&self.symbol)?;
        if let Some(offset) = self.offset {
            write!(f, "+{offset:#x}")?;
        }
        match &self.module {
            Some(module) => write!(f, " [{module}]"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;

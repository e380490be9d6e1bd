//! Running guest instructions (SIE), and getting a vCPU out of it.
//!
//! What the guest executes is a list of [`GuestStep`]s. Computing is a sleep that a kick interrupts. A kick does not
//! always take effect at once: now and then the host's own processor is not dispatched (an LPAR's share, a z/VM guest),
//! and who waits for the vCPU to leave SIE waits for up to 1.8 ms.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::emulator::primitives::futex;

/// `PROG_IN_SIE` of `prog0c`: guest instructions are running.
const PROG_IN_SIE: u32 = 1;
/// `PROG_BLOCK_SIE` of `prog20`: must not enter SIE.
const PROG_BLOCK_SIE: u32 = 1;
/// `ECA_AIV`: interruption interpretation, without which AQIC is user space's business.
const ECA_AIV: u32 = 0x0020_0000;
/// `ECA_APIE`: AP instructions are allowed.
const ECA_APIE: u32 = 0x0000_0008;

/// One thing a guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestStep {
    /// Computes for so long.
    Compute(Duration),
    /// Executes PQAP with these registers 0 to 2.
    Pqap([u64; 3]),
}

/// `struct kvm_s390_sie_block`, and the guest program.
#[derive(Debug)]
pub struct SieBlock {
    prog0c: AtomicU32,
    prog20: AtomicU32,
    eca: AtomicU32,
    kick: AtomicU32,
    kicks: AtomicU32,
    program: Mutex<VecDeque<GuestStep>>,
}

impl Default for SieBlock {
    fn default() -> Self {
        Self {
            prog0c: AtomicU32::new(0),
            prog20: AtomicU32::new(0),
            eca: AtomicU32::new(ECA_AIV | ECA_APIE),
            kick: AtomicU32::new(0),
            kicks: AtomicU32::new(0),
            program: Mutex::default(),
        }
    }
}

impl SieBlock {
    /// The driver may handle AQIC.
    pub fn has_aiv(&self) -> bool {
        self.eca.load(Ordering::Relaxed) & ECA_AIV != 0
    }

    /// The guest may use AP instructions.
    pub fn has_apie(&self) -> bool {
        self.eca.load(Ordering::Relaxed) & ECA_APIE != 0
    }

    /// Takes facilities away, for tests of the paths without them.
    #[cfg(test)]
    pub(crate) fn set_eca(&self, aiv: bool, apie: bool) {
        let eca = if aiv { ECA_AIV } else { 0 } | if apie { ECA_APIE } else { 0 };
        self.eca.store(eca, Ordering::Relaxed);
    }

    fn program(&self) -> std::sync::MutexGuard<'_, VecDeque<GuestStep>> {
        self.program
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Gives the guest more to do.
    pub fn load(&self, steps: impl IntoIterator<Item = GuestStep>) {
        self.program().extend(steps);
    }

    /// The guest has nothing left to do.
    pub fn is_idle(&self) -> bool {
        self.program().is_empty()
    }

    /// What the guest does next.
    pub fn next_step(&self) -> Option<GuestStep> {
        self.program().pop_front()
    }

    /// `sie64a` with the loop around it: runs guest instructions for `length`, leaving and entering again when kicked.
    pub fn run(&self, length: Duration) {
        let until = Instant::now() + length;
        loop {
            while self.prog20.load(Ordering::SeqCst) & PROG_BLOCK_SIE != 0 {
                futex::wait(&self.prog20, PROG_BLOCK_SIE, None);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.kick.store(0, Ordering::SeqCst);
            self.prog0c.store(PROG_IN_SIE, Ordering::SeqCst);
            if self.prog20.load(Ordering::SeqCst) & PROG_BLOCK_SIE == 0 {
                futex::wait(&self.kick, 0, Some(left));
                if self.kick.load(Ordering::SeqCst) != 0 {
                    let left = until.saturating_duration_since(Instant::now());
                    std::thread::sleep(left.min(self.kick_latency()));
                }
            }
            self.prog0c.store(0, Ordering::SeqCst);
            futex::wake(&self.prog0c, i32::MAX);
        }
    }

    /// How long this kick takes to have an effect.
    fn kick_latency(&self) -> Duration {
        let n = self.kicks.fetch_add(1, Ordering::Relaxed);
        if n % 2 == 0 {
            Duration::from_micros(600 + u64::from(n % 5) * 300)
        } else {
            Duration::ZERO
        }
    }

    /// `kvm_s390_vcpu_block`: keeps the vCPU out of SIE, and waits until it is.
    pub fn block(&self) {
        self.prog20.store(PROG_BLOCK_SIE, Ordering::SeqCst);
        self.exit_sie();
    }

    /// `kvm_s390_vcpu_unblock`.
    pub fn unblock(&self) {
        self.prog20.store(0, Ordering::SeqCst);
        futex::wake(&self.prog20, i32::MAX);
    }

    /// `exit_sie`: kicks the vCPU and waits until it has left SIE. Handling an intercept is not in SIE.
    fn exit_sie(&self) {
        self.kick.store(1, Ordering::SeqCst);
        futex::wake(&self.kick, i32::MAX);
        while self.prog0c.load(Ordering::SeqCst) & PROG_IN_SIE != 0 {
            futex::wait(&self.prog0c, PROG_IN_SIE, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_vcpu_is_not_in_sie() {
        let block: &'static SieBlock = Box::leak(Box::default());
        let runner = std::thread::spawn(|| block.run(Duration::from_millis(60)));
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(1));
            block.block();
            assert_eq!(block.prog0c.load(Ordering::SeqCst), 0);
            block.unblock();
        }
        runner.join().unwrap();
    }
}

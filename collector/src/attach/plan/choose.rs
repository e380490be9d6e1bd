//! The choice for one point: which name, which mechanism.

use probe_ebpf::abi::Mode;

use super::{Arguments, Instead, Machine, Mechanism, Named, Planned, Status, Target};
use crate::attach::generation::Generations;
use crate::attach::offsets::Field;
use crate::attach::plan::Forced;
use crate::attach::points::{Filter, Kind, LockCall, Name, Point, Role, Side};
use crate::attach::programs::has_trampoline;
use crate::attach::symbols::Found;

/// Chooses for one machine.
pub(super) struct Chooser<'a> {
    machine: &'a Machine<'a>,
    candidates: Generations,
    /// Whether `contention_end` is planned.
    pub contention_end: bool,
}

/// A target, or why there is none.
struct Resolved {
    target: Option<Target>,
    note: &'static str,
    reason: String,
}

impl<'a> Chooser<'a> {
    pub const fn new(machine: &'a Machine<'a>, candidates: Generations) -> Self {
        Self {
            machine,
            candidates,
            contention_end: false,
        }
    }

    /// All sides of a point.
    pub fn point(&self, point: &'static Point) -> Vec<Planned> {
        // Any lock of the kernel can be measured, with or without the driver.
        let of_driver = !matches!(point.role, Role::Lock(_) | Role::Contention(_));
        if of_driver && !point.generations.meets(self.candidates) {
            let reason = if self.candidates.is_empty() {
                "the driver is not there".to_owned()
            } else {
                format!("only {} has it", point.generations)
            };
            return Self::all(point, Status::NotNeeded, &reason, None);
        }
        if let Role::Lock(call) = point.role
            && let Some(reason) = self.not_traced(call)
        {
            return Self::all(point, Status::NotNeeded, reason, None);
        }
        let resolved = match point.kind {
            Kind::Tracepoint => self.tracepoint(point),
            Kind::Function => self.function(point),
        };
        let Resolved {
            target: Some(target),
            note,
            reason,
        } = resolved
        else {
            return self.missing(point, &resolved.reason);
        };
        if point.level > self.machine.level {
            let reason = format!("attached from level {} on", point.level);
            return Self::all(point, Status::OtherLevel, &reason, Some(&target));
        }
        let mut sides: Vec<Planned> = point
            .sides()
            .iter()
            .map(|side| self.side(point, *side, &target))
            .collect();
        for planned in &mut sides {
            for more in [note, &reason] {
                if !more.is_empty() {
                    planned.reason = format!("{}; {more}", planned.reason);
                }
            }
        }
        if let Role::Lock(call) = point.role {
            self.settle_lock(call, &mut sides);
        }
        sides
    }

    /// Why the functions of a kind of lock are left alone: the whole system would pay for programs that find nothing. Where
    /// there is nothing to trace at all, the plan says what could be.
    fn not_traced(&self, call: LockCall) -> Option<&'static str> {
        let named = self.machine.named;
        let driver = !self.candidates.is_empty();
        if !driver && named == Named::default() {
            return None;
        }
        let of_mutex = match call {
            LockCall::Acquire(mode)
            | LockCall::AcquireInterruptible(mode)
            | LockCall::Try(mode)
            | LockCall::Release(mode) => mode == Mode::Exclusive,
            LockCall::Downgrade => false,
        };
        if of_mutex {
            return (!driver && !named.mutexes).then_some("no mutex is traced");
        }
        // The only rwsem of the driver's that is adopted.
        let hook = driver && self.machine.offsets.get(Field::KvmPqapHookRwsem).is_some();
        (!hook && !named.rwsems).then_some("no rwsem is traced")
    }

    fn all(
        point: &'static Point,
        status: Status,
        reason: &str,
        target: Option<&Target>,
    ) -> Vec<Planned> {
        let lost = matches!(status, Status::Lost).then(|| point.lost.to_owned());
        point
            .sides()
            .iter()
            .map(|side| Planned {
                point,
                side: *side,
                status,
                target: target.cloned(),
                mechanism: None,
                reason: reason.to_owned(),
                used_instead: None,
                lost: lost.clone(),
            })
            .collect()
    }

    /// A point that is not there: a loss when every candidate should have it.
    fn missing(&self, point: &'static Point, reason: &str) -> Vec<Planned> {
        let every = self.candidates.and(point.generations) == self.candidates;
        let status = if point.expected && every {
            Status::Lost
        } else {
            Status::NotNeeded
        };
        // Said once: the sides of a function are missing together.
        let mut sides = Self::all(point, status, reason, None);
        sides.truncate(1);
        sides
    }

    fn tracepoint(&self, point: &Point) -> Resolved {
        let symbol = point.names[0].symbol;
        let event = symbol.split_once(':').map_or(symbol, |(_, event)| event);
        // The functions that call a tracepoint's programs, since v5.10.
        let traceiter = format!("__traceiter_{event}");
        let listed = self.machine.tracepoints.is_some_and(|all| all.has(symbol));
        let there = listed || self.machine.symbols.exact(None, &traceiter).is_some();
        Resolved {
            target: there.then(|| Target {
                symbol: symbol.to_owned(),
                module: None,
                address: None,
                unique: true,
                ftrace: false,
                suffix_note: None,
                arguments: Arguments::AsInSource,
                filter: Filter::All,
            }),
            note: "",
            reason: if there {
                String::new()
            } else {
                format!("this kernel has no tracepoint {symbol}")
            },
        }
    }

    /// The function under the first of its names that is there as it is in the source, else a clone of it.
    fn function(&self, point: &Point) -> Resolved {
        let mut refused = Vec::new();
        let exact = point.names.iter().filter_map(|name| {
            let found = self.machine.symbols.exact(name.module, name.symbol)?;
            Some((name, found))
        });
        let clones = point.names.iter().flat_map(|name| {
            let clones = self.machine.symbols.clones(name.module, name.symbol);
            clones.into_iter().map(move |found| (name, found))
        });
        for (name, found) in exact.chain(clones) {
            match self.accept(point, name, &found) {
                Ok(target) => {
                    return Resolved {
                        target: Some(target),
                        note: name.note,
                        reason: refused.join("; "),
                    };
                }
                Err(reason) => refused.push(reason),
            }
        }
        if refused.is_empty() {
            let name = &point.names[0];
            let module = name.module.unwrap_or("vmlinux");
            refused.push(
                if name
                    .module
                    .is_some_and(|m| !self.machine.symbols.has_module(m))
                {
                    format!("the module {module} is not loaded")
                } else {
                    format!(
                        "{} is not in {module}: inlined, or another version's",
                        name.symbol
                    )
                },
            );
        }
        Resolved {
            target: None,
            note: "",
            reason: refused.join("; "),
        }
    }

    fn accept(&self, point: &Point, name: &Name, found: &Found<'_>) -> Result<Target, String> {
        let symbol = found.symbol.name;
        if found.in_module > 1 {
            return Err(format!(
                "{} functions are called {symbol} in {}",
                found.in_module,
                name.module.unwrap_or("vmlinux")
            ));
        }
        let entry = matches!(point.role, Role::Entry(_));
        let arguments = match found.suffix {
            None => Arguments::AsInSource,
            Some(_) => Arguments::Unknown,
        };
        if found.suffix.is_some() && !entry {
            return Err(format!(
                "{symbol} is a clone by the compiler whose first argument is not known to be the source's"
            ));
        }
        // Without what tells its calls apart, all that the function does would count.
        let needed: &[Field] = match name.filter {
            Filter::All => &[],
            Filter::Instruction(_) => &[Field::KvmVcpuSieBlock, Field::SieBlockIpa],
            Filter::VmIoctl(_) => &[Field::FilePrivateData],
        };
        for field in needed {
            if self.machine.offsets.get(*field).is_none() {
                return Err(format!(
                    "{symbol} is of no use without the offset of {}",
                    field.name()
                ));
            }
        }
        Ok(Target {
            symbol: symbol.to_owned(),
            module: name.module.map(str::to_owned),
            address: Some(found.symbol.address).filter(|address| *address != 0),
            unique: found.unique(),
            ftrace: self
                .machine
                .functions
                .is_some_and(|list| list.count(name.module, symbol) == 1),
            suffix_note: found.note(),
            arguments,
            filter: name.filter,
        })
    }

    fn side(&self, point: &'static Point, side: Side, target: &Target) -> Planned {
        let mut refused = Vec::new();
        let mut chosen = None;
        for mechanism in self.mechanisms(point, side, target) {
            match self.possible(mechanism, target) {
                Ok(()) => {
                    chosen = Some(mechanism);
                    break;
                }
                Err(reason) => refused.push(reason),
            }
        }
        let reason = match (chosen, refused.is_empty()) {
            (Some(mechanism), true) => format!("{mechanism} is the first choice"),
            (Some(mechanism), false) => format!("{mechanism}: {}", refused.join("; ")),
            (None, true) => "no return probe on a lock that blocks: a waiter keeps its return instance, and the pool runs dry in a pile-up".to_owned(),
            (None, false) => refused.join("; "),
        };
        Planned {
            point,
            side,
            status: if chosen.is_some() {
                Status::Planned
            } else {
                Status::Lost
            },
            target: Some(target.clone()),
            mechanism: chosen,
            reason,
            used_instead: None,
            lost: chosen.is_none().then(|| point.lost.to_owned()),
        }
    }

    /// Mechanisms that fit one side, the cheapest first.
    fn mechanisms(&self, point: &Point, side: Side, target: &Target) -> Vec<Mechanism> {
        let forced = self.machine.forced;
        if point.kind == Kind::Tracepoint {
            return match forced {
                Some(Forced::BtfTracepoint) => vec![Mechanism::BtfTracepoint],
                Some(Forced::RawTracepoint) => vec![Mechanism::RawTracepoint],
                _ => vec![Mechanism::BtfTracepoint, Mechanism::RawTracepoint],
            };
        }
        let blocking = matches!(
            point.role,
            Role::Lock(LockCall::Acquire(_) | LockCall::AcquireInterruptible(_))
        );
        let (trampoline, probe) = match side {
            Side::Enter => (Mechanism::Fentry, Some(Mechanism::Kprobe)),
            Side::Return => (
                Mechanism::Fexit,
                Some(Mechanism::Kretprobe).filter(|_| !blocking),
            ),
        };
        // Trampolines are loaded against the types of vmlinux; those of modules cannot be named to the loader.
        let trampoline =
            (target.module.is_none() && has_trampoline(point.role)).then_some(trampoline);
        match (forced, trampoline) {
            (Some(Forced::Kprobe), _) | (_, None) => probe.into_iter().collect(),
            (Some(Forced::Fentry), Some(trampoline)) => vec![trampoline],
            (_, Some(trampoline)) => [trampoline].into_iter().chain(probe).collect(),
        }
    }

    fn possible(&self, mechanism: Mechanism, target: &Target) -> Result<(), String> {
        self.machine.allowed.check(mechanism)?;
        let vmlinux = self.machine.types.vmlinux.as_deref();
        let symbol = &target.symbol;
        match mechanism {
            Mechanism::BtfTracepoint => {
                let event = symbol.split_once(':').map_or(&**symbol, |(_, event)| event);
                match vmlinux {
                    None => Err(format!("{mechanism} needs the types of vmlinux")),
                    Some(btf) if btf.has_typedef(&format!("btf_trace_{event}")) => Ok(()),
                    Some(_) => Err(format!("the types of vmlinux have no btf_trace_{event}")),
                }
            }
            Mechanism::RawTracepoint => Ok(()),
            Mechanism::Fentry | Mechanism::Fexit => match vmlinux {
                None => Err(format!("{mechanism} needs the types of vmlinux")),
                Some(btf) if btf.has_function(symbol) => Ok(()),
                Some(_) => Err(format!("the types of vmlinux do not describe {symbol}")),
            },
            Mechanism::Kprobe | Mechanism::Kretprobe => self.placeable(target),
        }
    }

    /// Whether a breakpoint-free probe can be placed.
    fn placeable(&self, target: &Target) -> Result<(), String> {
        if !target.ftrace && !self.machine.allowed.stop_machine {
            let symbol = &target.symbol;
            return Err(match self.machine.functions {
                Some(_) => format!(
                    "ftrace cannot patch {symbol}, and another probe may stop the machine (--allow-stop-machine)"
                ),
                None => format!(
                    "without tracefs it is not known whether ftrace can patch {symbol} (--allow-stop-machine)"
                ),
            });
        }
        // A module's function is named with its module. A function of vmlinux can only be named alone.
        if !target.unique && target.module.is_none() && target.address.is_none() {
            return Err(format!(
                "{} is not unique, and the kernel hides its address",
                target.symbol
            ));
        }
        Ok(())
    }

    /// Acquisitions: by fexit alone where contention says when waits begin; else by entry, and what says the end.
    fn settle_lock(&self, call: LockCall, sides: &mut [Planned]) {
        let [enter, end] = sides else { return };
        let by_return = end.mechanism == Some(Mechanism::Fexit);
        match call {
            LockCall::Acquire(_) | LockCall::AcquireInterruptible(_) => {
                if by_return && self.contention_end {
                    unneeded(
                        enter,
                        "the return has the lock and the result, and contention_begin the beginning of waits",
                    );
                } else if !by_return && enter.status == Status::Planned {
                    end.status = Status::Replaced;
                    let (instead, how) = if self.contention_end {
                        (
                            Instead::ContentionEnd,
                            "an uncontended acquisition counts from the function's entry; an interrupted wait is known by contention_end",
                        )
                    } else {
                        (
                            Instead::OwnerWord,
                            "an acquisition is known by the owner word at the task's next event, so its time is late, and waits are known only from entries",
                        )
                    };
                    end.used_instead = Some(instead);
                    end.lost = Some(how.to_owned());
                }
            }
            LockCall::Try(mode) => {
                let of_mutex = mode == Mode::Exclusive;
                if by_return {
                    unneeded(enter, "the return has the lock and the result");
                } else if enter.status == Status::Planned
                    && (of_mutex || end.status == Status::Lost)
                {
                    end.status = Status::Replaced;
                    end.mechanism = None;
                    end.used_instead = Some(Instead::OwnerWord);
                    end.lost = Some(
                        if of_mutex {
                            "whether a trylock succeeded is known by the owner word at the task's next event"
                        } else {
                            "a trylock of an rwsem is believed to have succeeded: its word does not name its readers"
                        }
                        .to_owned(),
                    );
                }
            }
            LockCall::Release(_) | LockCall::Downgrade => {}
        }
    }
}

fn unneeded(planned: &mut Planned, reason: &str) {
    planned.status = Status::NotNeeded;
    planned.mechanism = None;
    planned.lost = None;
    reason.clone_into(&mut planned.reason);
}

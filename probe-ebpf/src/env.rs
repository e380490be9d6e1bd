//! Maps and helpers of the eBPF programs: the [`Env`] of the probe bodies.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns,
    bpf_probe_read_kernel, bpf_probe_read_user,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, RingBuf, Stack};
use aya_ebpf::programs::ProbeContext;
use aya_log_ebpf::warn;
use core::ffi::c_void;
use probe_ebpf::abi::{
    Coarse, Config, Counters, Edge, EntryInfo, EntryStats, LockInfo, MAX_CPUS, MAX_ENTRY_POINTS,
    MAX_SERIES, PQAP_FUNCTIONS, PQAP_RESPONSES, PROGRAMS, Program, SeriesStats, Span, Task,
    TaskExtremes, VERSION, Word,
};
use probe_ebpf::body::order::{self, Acquired};
use probe_ebpf::body::{Env, Note};

/// `BPF_F_MMAPABLE` (uapi/linux/bpf.h, since Linux 5.5): the collector reads these maps without a system call.
const MMAPABLE: u32 = 1 << 10;
/// `BPF_NOEXIST`.
const NO_EXIST: u64 = 1;
/// `BPF_RB_NO_WAKEUP`, `BPF_RB_FORCE_WAKEUP`, `BPF_RB_AVAIL_DATA`.
const RB_NO_WAKEUP: u64 = 1;
const RB_FORCE_WAKEUP: u64 = 2;
const RB_AVAIL_DATA: u64 = 0;
/// One message of a kind at most in this time.
const NOTE_INTERVAL_NS: u64 = 100_000_000;

/// The ABI's version, read by the collector before it loads the object.
#[used]
#[unsafe(no_mangle)]
static ABI_VERSION: u32 = VERSION;

/// Written by the collector before the object is loaded.
#[unsafe(no_mangle)]
static CONFIG: Config = Config {
    version: VERSION,
    shard_mask: 0,
    user_memory: 0,
    ring_wake_bytes: 0,
    mdev_flag: 0,
    mdev_notifier: 0,
    mdev_hook: 0,
    device_driver_data: 0,
    mdev_device_driver_data: 0,
    vcpu_kvm: 0,
    vcpu_run: 0,
    kvm_hook: 0,
    run_gprs: 0,
    ap_device_qid: 0,
    has_flag: 0,
};

/// 0 until every program is attached: a release must not be seen before the acquisition can be.
#[map]
static GATE: Array<Word> = Array::with_max_entries(1, 0);
#[map]
static LOCKS: HashMap<u64, LockInfo> = HashMap::with_max_entries(1, 0);
#[map]
static ENTRY_INFO: Array<EntryInfo> = Array::with_max_entries(MAX_ENTRY_POINTS as u32, 0);
#[map]
static TASK_SLOTS: HashMap<u32, u32> = HashMap::with_max_entries(1, 0);
#[map]
static FREE_TASKS: Stack<u32> = Stack::with_max_entries(1, 0);
#[map]
static TASKS: Array<Task> = Array::with_max_entries(1, MMAPABLE);
#[map]
static EXTREMES: Array<TaskExtremes> = Array::with_max_entries(1, MMAPABLE);
#[map]
static SERIES: Array<SeriesStats> = Array::with_max_entries(1, MMAPABLE);
#[map]
static ENTRIES: Array<EntryStats> = Array::with_max_entries(1, MMAPABLE);
#[map]
static INSTANCES: Array<Coarse> = Array::with_max_entries(1, MMAPABLE);
#[map]
static BY_ENTRY: Array<Coarse> =
    Array::with_max_entries((MAX_SERIES * MAX_ENTRY_POINTS) as u32, MMAPABLE);
#[map]
static PQAP: Array<Word> =
    Array::with_max_entries((2 * PQAP_FUNCTIONS * PQAP_RESPONSES) as u32, MMAPABLE);
#[map]
static EDGE_SLOTS: HashMap<u64, u32> = HashMap::with_max_entries(1, 0);
#[map]
static FREE_EDGES: Stack<u32> = Stack::with_max_entries(1, 0);
#[map]
static EDGES: Array<Edge> = Array::with_max_entries(1, MMAPABLE);
#[map]
static COUNTERS: Array<Counters> = Array::with_max_entries((MAX_CPUS * PROGRAMS) as u32, MMAPABLE);
/// By CPU: thread id and slot of the task that was seen there last, as one word, so that it is right or not at all.
#[map]
static LAST_TASK: Array<Word> = Array::with_max_entries(MAX_CPUS as u32, 0);
#[map]
static NOTES: Array<Word> = Array::with_max_entries(8, 0);
#[map]
static SPANS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// The maps, seen from one invocation.
pub struct Maps {
    ctx: *mut c_void,
}

impl Maps {
    /// For the program that was called with this context; `None` while not all programs are attached.
    #[inline(always)]
    pub fn open(ctx: &impl EbpfContext) -> Option<Self> {
        (element(&GATE, 0)?.get() != 0).then(|| Self { ctx: ctx.as_ptr() })
    }
}

/// An element of an array map; `None` beyond its end.
#[inline(always)]
fn element<T>(map: &'static Array<T>, index: u32) -> Option<&'static T> {
    // SAFETY: elements of an array map live as long as the program; shared fields are `Word`s.
    map.get_ptr(index).map(|p| unsafe { &*p })
}

#[inline(always)]
fn shard() -> u32 {
    // SAFETY: the helper has no precondition.
    unsafe { bpf_get_smp_processor_id() & (*config()).shard_mask }
}

/// The current CPU's element of [`LAST_TASK`].
#[inline(always)]
fn last_task() -> Option<&'static Word> {
    // SAFETY: the helper has no precondition.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    element(&LAST_TASK, cpu & (MAX_CPUS as u32 - 1))
}

/// The configuration, hidden from the compiler: it is written after compilation.
#[inline(always)]
fn config() -> *const Config {
    let mut config = &raw const CONFIG;
    // SAFETY: moves a register to itself.
    unsafe { core::arch::asm!("{0} = {0}", inout(reg) config) };
    config
}

/// A value of object memory; for types of which every bit pattern is a value.
#[inline(always)]
fn read<T>(address: u64) -> Option<T> {
    // SAFETY: the configuration is a global of the object; the helper checks the address.
    unsafe {
        if (*config()).user_memory != 0 {
            bpf_probe_read_user(address as *const T).ok()
        } else {
            bpf_probe_read_kernel(address as *const T).ok()
        }
    }
}

/// A slot for a key: the one it has, or a free one. `fresh` is called on a new slot before anybody can find it.
#[inline(always)]
fn slot_of<K: Copy>(
    slots: &HashMap<K, u32>,
    free: &Stack<u32>,
    key: K,
    fresh: impl FnOnce(u32),
) -> Option<u32> {
    // SAFETY: the value is copied at once, and never changes.
    if let Some(slot) = unsafe { slots.get(key) } {
        return Some(*slot);
    }
    let slot = free.pop().ok().flatten()?;
    fresh(slot);
    if slots.insert(key, slot, NO_EXIST).is_ok() {
        return Some(slot);
    }
    let _ = free.push(slot, 0);
    // Another CPU was faster.
    // SAFETY: as above.
    unsafe { slots.get(key) }.copied()
}

impl Env for Maps {
    #[inline(always)]
    fn config(&self) -> &Config {
        // SAFETY: the configuration is a global of the object.
        unsafe { &*config() }
    }

    #[inline(always)]
    fn now(&self) -> u64 {
        // SAFETY: the helper has no precondition.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn id(&self) -> u64 {
        bpf_get_current_pid_tgid()
    }

    #[inline(always)]
    fn lock(&self, address: u64) -> Option<LockInfo> {
        // SAFETY: the value is copied at once; the collector does not change entries of live locks.
        unsafe { LOCKS.get(address) }.copied()
    }

    #[inline(always)]
    fn entry_info(&self, entry: u8) -> Option<EntryInfo> {
        element(&ENTRY_INFO, u32::from(entry)).copied()
    }

    #[inline(always)]
    fn task(&self) -> Option<(&Task, &TaskExtremes)> {
        if let Some(present) = self.present_task() {
            return Some(present);
        }
        let id = self.id();
        let slot = slot_of(&TASK_SLOTS, &FREE_TASKS, id as u32, |slot| {
            name_task(slot, id);
        })?;
        Some((element(&TASKS, slot)?, element(&EXTREMES, slot)?))
    }

    #[inline(always)]
    fn present_task(&self) -> Option<(&Task, &TaskExtremes)> {
        let tid = self.id() as u32;
        let last = last_task();
        let cached = last.map_or(0, Word::get);
        let slot = if (cached >> 32) as u32 == tid {
            cached as u32
        } else {
            // SAFETY: the value is copied at once, and never changes.
            let slot = unsafe { TASK_SLOTS.get(tid) }.copied()?;
            if let Some(last) = last {
                last.set((u64::from(tid) << 32) | u64::from(slot));
            }
            slot
        };
        Some((element(&TASKS, slot)?, element(&EXTREMES, slot)?))
    }

    #[inline(always)]
    fn last_task(&self) -> Option<&Task> {
        let cached = last_task()?.get();
        if (cached >> 32) as u32 != self.id() as u32 {
            return None;
        }
        element(&TASKS, cached as u32)
    }

    #[inline(always)]
    fn series(&self, series: u8) -> Option<&SeriesStats> {
        element(&SERIES, shard() * MAX_SERIES as u32 + u32::from(series))
    }

    #[inline(always)]
    fn entry_stats(&self, entry: u8) -> Option<&EntryStats> {
        element(
            &ENTRIES,
            shard() * MAX_ENTRY_POINTS as u32 + u32::from(entry),
        )
    }

    #[inline(always)]
    fn instance(&self, slot: u32) -> Option<&Coarse> {
        element(&INSTANCES, slot)
    }

    #[inline(always)]
    fn by_entry(&self, series: u8, entry: u8) -> Option<&Coarse> {
        element(
            &BY_ENTRY,
            u32::from(series) * MAX_ENTRY_POINTS as u32 + u32::from(entry),
        )
    }

    #[inline(always)]
    fn pqap(&self, entry: u8, function: u8, response: u8) -> Option<&Word> {
        element(
            &PQAP,
            probe_ebpf::abi::pqap_index(entry, function, response),
        )
    }

    #[inline(always)]
    fn counters(&self, program: Program) -> Option<&Counters> {
        // SAFETY: the helper has no precondition.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        element(
            &COUNTERS,
            (cpu & (MAX_CPUS as u32 - 1)) * PROGRAMS as u32 + program as u32,
        )
    }

    #[inline(always)]
    fn edge(&self, key: u64, now_ns: u64) -> Option<&Edge> {
        let slot = slot_of(&EDGE_SLOTS, &FREE_EDGES, key, |slot| {
            name_edge(slot, key, now_ns)
        })?;
        element(&EDGES, slot)
    }

    #[inline(always)]
    fn edges(&self, task: &Task, acquired: Acquired, now_ns: u64) -> bool {
        let _ = task;
        record_edges(self.id(), acquired.address, acquired.pack(), now_ns) != 0
    }

    #[inline(always)]
    fn read_u64(&self, address: u64) -> Option<u64> {
        read(address)
    }

    #[inline(always)]
    fn read_u32(&self, address: u64) -> Option<u32> {
        read(address)
    }

    #[inline(always)]
    fn read_comm(&self, address: u64) -> Option<[u64; 2]> {
        read(address)
    }

    #[inline(always)]
    fn read_u8(&self, address: u64) -> Option<u8> {
        read(address)
    }

    #[inline(always)]
    fn write(&self, span: &Span) -> bool {
        let Some(mut place) = SPANS.reserve::<Span>(0) else {
            return false;
        };
        place.write(*span);
        // The collector drains the ring each tick; it is woken early only when the ring fills. Asking each time
        // would cost more than the answer is worth.
        let wake = span.start_ns & 15 == 0
            && SPANS.query(RB_AVAIL_DATA) > u64::from(self.config().ring_wake_bytes);
        place.submit(if wake { RB_FORCE_WAKEUP } else { RB_NO_WAKEUP });
        true
    }

    #[inline(always)]
    fn note(&self, note: Note, value: u64) {
        note_slow(self.ctx, note as u32, value);
    }
}

/// [`order::record`] for the current task; 0 if an edge found no slot.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn record_edges(id: u64, address: u64, acquired: u64, now_ns: u64) -> u64 {
    // SAFETY: the value is copied at once, and never changes.
    let Some(slot) = (unsafe { TASK_SLOTS.get(id as u32) }).copied() else {
        return 0;
    };
    let Some(task) = element(&TASKS, slot) else {
        return 0;
    };
    let maps = Maps {
        ctx: core::ptr::null_mut(),
    };
    u64::from(order::record(
        &maps,
        task,
        Acquired::unpack(address, acquired),
        now_ns,
    ))
}

/// Fills a new task record's identity.
#[inline(always)]
fn name_task(slot: u32, id: u64) {
    let Some(task) = element(&TASKS, slot) else {
        return;
    };
    if let Ok(comm) = bpf_get_current_comm() {
        let (first, second) = comm.split_at(8);
        let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap_or([0; 8]));
        task.comm[0].set(word(first));
        task.comm[1].set(word(second));
    }
    task.id.set(id);
}

/// Fills a new edge's identity.
#[inline(always)]
fn name_edge(slot: u32, key: u64, now_ns: u64) {
    let Some(edge) = element(&EDGES, slot) else {
        return;
    };
    if let Ok(comm) = bpf_get_current_comm() {
        let (first, second) = comm.split_at(8);
        let word = |bytes: &[u8]| u64::from_ne_bytes(bytes.try_into().unwrap_or([0; 8]));
        edge.first_comm[0].set(word(first));
        edge.first_comm[1].set(word(second));
    }
    edge.first_tid.set(bpf_get_current_pid_tgid() & 0xffff_ffff);
    edge.first_ns.set(now_ns);
    edge.key.set(key);
}

/// Says something in the log, at most once in [`NOTE_INTERVAL_NS`] for each kind. Never on a hot path.
#[inline(never)]
fn note_slow(ctx: *mut c_void, note: u32, value: u64) -> u32 {
    // SAFETY: the helper has no precondition.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(last) = element(&NOTES, note) else {
        return 0;
    };
    if now - last.get() < NOTE_INTERVAL_NS {
        return 0;
    }
    last.set(now);
    let ctx = ProbeContext::new(ctx);
    if note == Note::UnexpectedRelease as u32 {
        warn!(&ctx, "release of {:x} without a seen acquisition", value);
    } else if note == Note::NoTaskSlot as u32 {
        warn!(&ctx, "no task slot left for {}", value & 0xffff_ffff);
    } else if note == Note::NoEdgeSlot as u32 {
        warn!(&ctx, "no order edge slot left: {:x}", value);
    } else if note == Note::Overflow as u32 {
        warn!(&ctx, "a task's record is full: {:x}", value);
    } else {
        warn!(&ctx, "cannot read {:x}", value);
    }
    0
}

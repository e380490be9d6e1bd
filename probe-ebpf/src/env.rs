//! Maps and helpers of the eBPF programs: the [`Env`] of the probe bodies.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_current_task, bpf_jiffies64};
use aya_ebpf::helpers::{
    bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_smp_processor_id, bpf_ktime_get_ns,
    bpf_probe_read_kernel, bpf_probe_read_user,
};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, PerCpuArray, RingBuf, Stack, StackTrace};
use aya_ebpf::programs::ProbeContext;
use aya_ebpf::programs::tracing::StackIdContext as _;
use aya_log_ebpf::warn;
use core::ffi::c_void;
use probe_ebpf::abi::{
    Adopted, Call, Coarse, Config, Counters, Edge, EntryInfo, EntryStats, InstanceInfo,
    LOCK_IS_WAIT_QUEUE, LockInfo, MAX_CPUS, MAX_ENTRY_POINTS, MAX_SERIES, NO_INSTANCE, PEEK_BYTES,
    PQAP_FUNCTIONS, PQAP_RESPONSES, PROGRAMS, Program, SLOTS_PER_ADOPTED, SeriesStats, Span, Task,
    TaskExtremes, VERSION, Word, gate,
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
/// `BPF_F_USER_STACK`.
const BPF_F_USER_STACK: u64 = 1 << 8;
/// One message of a kind at most in this time.
const NOTE_INTERVAL_NS: u64 = 100_000_000;

/// The ABI's version, read by the collector before it loads the object.
#[used]
#[unsafe(no_mangle)]
static ABI_VERSION: u32 = VERSION;

/// Written by the collector before the object is loaded.
#[unsafe(no_mangle)]
static CONFIG: Config = Config::EMPTY;

/// See [`gate`].
#[map]
static GATE: Array<Word> = Array::with_max_entries(gate::WORDS, 0);
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
static FREE_INSTANCES: Stack<u32> = Stack::with_max_entries(1, 0);
#[map]
static INSTANCE_INFO: Array<InstanceInfo> = Array::with_max_entries(1, MMAPABLE);
/// Entry point id by the address at which a probe sees its call.
#[map]
static ENTRY_AT: HashMap<u64, u32> = HashMap::with_max_entries(1, 0);
/// Kernel and user stacks of long waits and holds.
#[map]
static STACKS: StackTrace = StackTrace::with_max_entries(1, 0);
/// What the program `peek` has read.
#[map]
static PEEK: Array<[u8; PEEK_BYTES]> = Array::with_max_entries(1, MMAPABLE);
/// By CPU: calls of the functions whose rate is sampled.
#[map]
static CALLS: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);
/// [`Env::waiting`].
#[map]
static WAITING: Array<Word> = Array::with_max_entries(1, 0);
#[map]
static NOTES: Array<Word> = Array::with_max_entries(8, 0);
#[map]
static SPANS: RingBuf = RingBuf::with_byte_size(4096, 0);

/// The maps, seen from one invocation.
pub struct Maps {
    ctx: *mut c_void,
}

impl Maps {
    /// For the program that was called with this context; `None` while not all programs are attached, and when the
    /// collector has been silent for too long.
    #[inline(always)]
    pub fn open(ctx: &impl EbpfContext) -> Option<Self> {
        let until = element(&GATE, gate::UNTIL)?.get();
        if until == 0 {
            return None;
        }
        // SAFETY: the helper has no precondition. The verifier makes it a load of the variable.
        let left = until - unsafe { bpf_jiffies64() };
        (left as i64 >= 0).then(|| Self { ctx: ctx.as_ptr() })
    }
}

/// The lock whose address is a typed program's argument `n`, as a number, if the lock is traced. The first thing that is
/// done with it is a look at the table of locks.
///
/// The verifier knows such an argument as a pointer to a mutex, with which nothing may be computed.
#[inline(always)]
pub fn traced_argument(ctx: &impl EbpfContext, typed: u64, n: usize) -> Option<u64> {
    // SAFETY: only tested for presence.
    unsafe { LOCKS.get(typed) }?;
    untyped_argument(ctx, n)
}

/// A typed program's argument `n`, as a number.
#[inline(always)]
pub fn untyped_argument(ctx: &impl EbpfContext, n: usize) -> Option<u64> {
    let arguments = ctx.as_ptr().cast::<u64>();
    // SAFETY: the context is an array of at least `n` + 1 arguments; the helper checks the address.
    unsafe { bpf_probe_read_kernel(arguments.add(n)).ok() }
}

/// Whether the end of a wait for this lock may be one that counts. Most ends are those of spin locks, and tell nothing
/// else: while nobody waits for a traced lock, all of them cost a load.
#[inline(always)]
pub fn may_end_wait(lock: u64) -> bool {
    // SAFETY: only tested for presence.
    element(&WAITING, 0).is_some_and(|waiting| waiting.get() != 0)
        && unsafe { LOCKS.get(lock) }.is_some()
}

/// A word of [`GATE`]; 0 beyond its end.
#[inline(always)]
fn gate_word(index: u32) -> u64 {
    element(&GATE, index).map_or(0, Word::get)
}

/// Notes that the collector is alive.
#[inline(always)]
pub fn beat() {
    if let (Some(beat), Some(beat_ns), Some(until)) = (
        element(&GATE, gate::BEAT),
        element(&GATE, gate::BEAT_NS),
        element(&GATE, gate::UNTIL),
    ) {
        // SAFETY: the helpers have no precondition.
        let (now, now_ns) = unsafe { (bpf_jiffies64(), bpf_ktime_get_ns()) };
        let before = until.get();
        let silent = before != 0 && ((before - now) as i64) < 0;
        if silent && let Some(epoch) = element(&GATE, gate::EPOCH) {
            epoch.set(epoch.get() + 1);
        }
        beat.set(now);
        beat_ns.set(now_ns);
        // 0 means "closed"; jiffies are near 0 for a moment in a machine's life.
        let next = now + gate_word(gate::LIMIT);
        until.set(if next == 0 { 1 } else { next });
    }
}

/// Copies kernel memory into [`PEEK`]; 0, or a negative errno.
#[inline(always)]
pub fn peek(address: u64, length: u64) -> i64 {
    let Some(place) = PEEK.get_ptr_mut(0) else {
        return -1;
    };
    // SAFETY: the helper checks the address, and writes at most the size of an element.
    unsafe {
        aya_ebpf::helpers::generated::bpf_probe_read_kernel(
            place.cast(),
            (length & (PEEK_BYTES as u64 - 1)) as u32,
            address as *const c_void,
        ) as i64
    }
}

/// Counts a call of a function whose rate is sampled.
#[inline(always)]
pub fn count_call() {
    if let Some(calls) = CALLS.get_ptr_mut(0) {
        // SAFETY: the element is this CPU's. An interrupt in between may lose a count of a sample.
        unsafe { *calls += 1 };
    }
}

/// The id of the entry point that is probed at this address.
#[inline(always)]
pub fn entry_at(address: u64) -> Option<u8> {
    // SAFETY: the value is copied at once, and never changes.
    unsafe { ENTRY_AT.get(address) }.map(|id| *id as u8)
}

/// A thread has ended: its record may be another's now. Locks that it still holds stay on record until then.
#[inline(always)]
pub fn task_exits() {
    let tid = bpf_get_current_pid_tgid() as u32;
    // SAFETY: the value is copied at once, and never changes.
    let Some(slot) = (unsafe { TASK_SLOTS.get(tid) }).copied() else {
        return;
    };
    let Some(task) = element(&TASKS, slot) else {
        return;
    };
    if TASK_SLOTS.remove(tid).is_err() {
        return;
    }
    // A thread that ends with a lock in its hands keeps its record: that is how a leaked lock is seen.
    if task.held_len.get() != 0 {
        return;
    }
    task.sequence.set_ordered(task.sequence.get() + 1);
    task.id.set(0);
    task.waits_len.set(0);
    task.inside_len.set(0);
    task.pending.set(0);
    task.sequence.set_ordered(task.sequence.get() + 1);
    let _ = FREE_TASKS.push(slot, 0);
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

impl Maps {
    /// Writes a record to the ring.
    #[inline(always)]
    fn write_record<T: 'static>(&self, record: T, start_ns: u64) -> bool {
        if gate_word(gate::NO_SPANS) != 0 {
            return false;
        }
        let Some(mut place) = SPANS.reserve::<T>(0) else {
            return false;
        };
        place.write(record);
        // The collector drains the ring each tick; it is woken early only when the ring fills. Asking each time
        // would cost more than the answer is worth.
        let wake = start_ns & 15 == 0
            && SPANS.query(RB_AVAIL_DATA) > u64::from(self.config().ring_wake_bytes);
        place.submit(if wake { RB_FORCE_WAKEUP } else { RB_NO_WAKEUP });
        true
    }
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
        if (cached >> 32) as u32 == tid
            && let Some(task) = element(&TASKS, cached as u32)
            // The thread id may be another thread's by now, with a record of its own.
            && task.id.get() as u32 == tid
        {
            return Some((task, element(&EXTREMES, cached as u32)?));
        }
        // SAFETY: the value is copied at once, and never changes.
        let slot = unsafe { TASK_SLOTS.get(tid) }.copied()?;
        if let Some(last) = last {
            last.set((u64::from(tid) << 32) | u64::from(slot));
        }
        Some((element(&TASKS, slot)?, element(&EXTREMES, slot)?))
    }

    #[inline(always)]
    fn last_task(&self) -> Option<(&Task, &TaskExtremes)> {
        let cached = last_task()?.get();
        if (cached >> 32) as u32 != self.id() as u32 {
            return None;
        }
        let slot = cached as u32;
        Some((element(&TASKS, slot)?, element(&EXTREMES, slot)?))
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
        self.write_record(*span, span.start_ns)
    }

    #[inline(always)]
    fn write_call(&self, call: &Call) -> bool {
        self.write_record(*call, call.span.start_ns)
    }

    #[inline(always)]
    fn note(&self, note: Note, value: u64) {
        note_slow(self.ctx, note as u32, value);
    }

    #[inline(always)]
    fn adopt(&self, lock: Adopted) -> bool {
        // SAFETY: only tested for presence.
        if unsafe { LOCKS.get(lock.address) }.is_some() {
            return true;
        }
        let packed = (u64::from(lock.number) << 16) | (u64::from(lock.kind) << 8);
        adopt_lock(
            lock.address,
            packed | u64::from(lock.class),
            lock.object,
            lock.wait_queue,
        ) != 0
    }

    #[inline(always)]
    fn forget(&self, address: u64) {
        forget_lock(address);
    }

    #[inline(always)]
    fn current(&self) -> u64 {
        // SAFETY: the helper has no precondition.
        unsafe { bpf_get_current_task() }
    }

    #[inline(always)]
    fn waiting(&self) -> Option<&Word> {
        element(&WAITING, 0)
    }

    #[inline(always)]
    fn level(&self) -> u64 {
        if self.config().adopts == 0 {
            return 2;
        }
        gate_word(gate::LEVEL)
    }

    #[inline(always)]
    fn epoch(&self) -> u64 {
        gate_word(gate::EPOCH)
    }

    #[inline(always)]
    fn stack(&self, duration: u64) -> Option<u64> {
        let over = gate_word(gate::STACKS_OVER);
        if over == 0 || duration < over {
            return None;
        }
        let flags = if self.config().user_memory != 0 {
            BPF_F_USER_STACK
        } else {
            0
        };
        // The wrapper's type does not matter: the helper takes the context of whichever program this is.
        let stack = ProbeContext::new(self.ctx).get_stackid(&STACKS, flags);
        stack.ok().map(|stack| stack as u64)
    }
}

/// Adds a lock to the table of locks; 0 if there was no room. `facts`: class, kind << 8, number << 16.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn adopt_lock(address: u64, facts: u64, object: u64, wait_queue: u64) -> u64 {
    let slot = FREE_INSTANCES.pop().ok().flatten();
    let instance = slot.unwrap_or(NO_INSTANCE);
    let info = LockInfo {
        target: 0,
        instance,
        class: facts as u8,
        kind: (facts >> 8) as u8,
        flags: 0,
        reserved: 0,
    };
    if LOCKS.insert(address, info, NO_EXIST).is_err() {
        // Another CPU was faster, or the table is full.
        if let Some(slot) = slot {
            let _ = FREE_INSTANCES.push(slot, 0);
        }
        // SAFETY: only tested for presence.
        return u64::from(unsafe { LOCKS.get(address) }.is_some());
    }
    // The slot may have been another lock's, whose last value means nothing here.
    for n in 0..SLOTS_PER_ADOPTED {
        if let Some(stats) = element(&INSTANCES, instance.wrapping_add(n)) {
            stats.value.set(0);
        }
    }
    if let Some(record) = element(&INSTANCE_INFO, instance) {
        record.class.set(facts & 0xffff);
        record.object.set(object);
        record.number.set(facts >> 16);
        record.tgid.set(bpf_get_current_pid_tgid() >> 32);
        // SAFETY: the helper has no precondition.
        record.since.set(unsafe { bpf_ktime_get_ns() });
        record.address.set(address);
    }
    if wait_queue != 0 {
        let queue = LockInfo {
            target: address,
            flags: LOCK_IS_WAIT_QUEUE,
            ..info
        };
        let _ = LOCKS.insert(wait_queue, queue, NO_EXIST);
    }
    1
}

/// Takes a lock out of the table of locks. What was counted for it stays.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn forget_lock(address: u64) -> u64 {
    // SAFETY: the value is copied at once.
    let Some(info) = (unsafe { LOCKS.get(address) }).copied() else {
        return 0;
    };
    let _ = LOCKS.remove(address);
    if let Some(record) = element(&INSTANCE_INFO, info.instance)
        && info.flags & LOCK_IS_WAIT_QUEUE == 0
    {
        // SAFETY: the helper has no precondition.
        record.gone_ns.set(unsafe { bpf_ktime_get_ns() });
    }
    1
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

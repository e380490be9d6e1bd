//! Entry points: calls, latencies and returns.

use super::{
    Env, Note, add_full, adopt, attempts, begin, count_record, current_entry, emit, end, extreme,
    failure, flags, innermost, subject,
};
use crate::abi::{
    Call, ENTRY_HAS_WRITER, ENTRY_PQAP, ENTRY_RETURNS_INT, ENTRY_RETURNS_VOID, ENTRY_TESTS_FLAG,
    ENTRY_TESTS_FLAG_IF_NO_DATA, EntryInfo, Inside, KVM_S390_PV_COMMAND, MAX_ENTRY_POINTS,
    MAX_ERRNO, MAX_NESTED, NO_INSTANCE, NO_OFFSET, PQAP_RESPONDED, Program, RETURN_CODES, Resolve,
    SPAN_ENTRY, SPAN_WRITER, Span, Task,
};
use crate::names::entry_id;

/// An entry point was called with these first six arguments. The last two matter only where [`ENTRY_HAS_WRITER`] says so.
#[inline(always)]
pub fn enter<E: Env>(env: &E, entry: u8, args: [u64; 6]) {
    enter_frame(env, entry, args, 0);
}

/// As [`enter`], with the stack pointer, by which [`leave_frame`] finds the call.
#[inline(always)]
pub fn enter_frame<E: Env>(env: &E, entry: u8, args: [u64; 6], frame: u64) {
    let Some(info) = env.entry_info(entry) else {
        return;
    };
    if info.resolve == Resolve::VcpuB2 as u8 && !is_pqap(env, args[0]) {
        return;
    }
    if info.resolve == Resolve::KvmFilePv as u8 && args[1] as u32 != KVM_S390_PV_COMMAND {
        return;
    }
    if let Some(stats) = env.entry_stats(entry) {
        stats.calls.add(1);
    }
    let Some((task, extremes)) = env.task() else {
        failure(env, Program::Enter, Note::NoTaskSlot, env.id());
        return;
    };
    attempts::settle(env, task, extremes);
    if frame != 0 {
        drop_returned(task, frame);
    }
    let n = task.inside_len.get();
    let place = task.inside.get(n as usize & (MAX_NESTED - 1));
    let (true, Some(inside)) = (n < MAX_NESTED as u64, place) else {
        begin(task);
        task.inside_len.set(n + 1);
        end(task);
        failure(env, Program::Enter, Note::Overflow, u64::from(entry));
        return;
    };
    let (object, arg) = resolve(env, info, args);
    let mut writer = 0;
    if info.flags & ENTRY_HAS_WRITER != 0 && args[4] != 0 {
        // The record is not valid before `inside_len` says so.
        writer = args[4];
        let comm = env.read_comm(args[5]).unwrap_or([0; 2]);
        inside.writer_comm[0].set(comm[0]);
        inside.writer_comm[1].set(comm[1]);
    }
    let mut flags = info.flags;
    if flags & ENTRY_TESTS_FLAG_IF_NO_DATA != 0 && args[2] == 0 {
        flags |= ENTRY_TESTS_FLAG;
    }
    subject::at_call(env, inside, info, &args, object);
    begin(task);
    inside
        .entry
        .set(u64::from(entry) | (u64::from(flags) << 8) | (u64::from(info.resolve) << 16));
    inside.object.set(object);
    inside.first.set(args[0]);
    inside.arg.set(arg);
    inside.writer.set(writer);
    inside.frame.set(frame);
    inside.since.set(env.now());
    task.inside_len.set(n + 1);
    end(task);
    if env.config().adopts != 0 {
        adopt::from_call(env, info, &args, inside);
        if entry == entry_id::OPEN_DEVICE || entry == entry_id::REMOVE {
            adopt::vfio(env, object, u64::from(entry == entry_id::OPEN_DEVICE));
        }
    }
}

/// A function returns whose call had this stack pointer. Return probes of kernels before 5.15 know nothing else, and a
/// call that was not seen has no record then.
#[inline(always)]
pub fn leave_frame<E: Env>(env: &E, frame: u64, value: u64) {
    let Some((task, extremes)) = env.present_task() else {
        return;
    };
    attempts::settle(env, task, extremes);
    let len = task.inside_len.get();
    let mut entry = 0;
    for (depth, inside) in task.inside.iter().enumerate() {
        if (depth as u64) < len && inside.frame.get() == frame {
            entry = inside.entry.get() as u8;
        }
    }
    if entry != 0 {
        leave(env, entry, value);
    }
}

/// The stack grows down: calls whose frame lies below that of a new call have returned, though nobody saw it.
#[inline(always)]
fn drop_returned(task: &Task, frame: u64) {
    // Calls beyond the record's room have no frame to be found by.
    if task.inside_len.get() > MAX_NESTED as u64 {
        begin(task);
        task.inside_len.set(MAX_NESTED as u64);
        end(task);
    }
    for _ in 0..MAX_NESTED {
        match innermost(task) {
            Some(inside) if inside.frame.get() != 0 && inside.frame.get() <= frame => {
                begin(task);
                task.inside_len.set(task.inside_len.get() - 1);
                end(task);
            }
            _ => return,
        }
    }
}

/// The instruction that a vCPU was intercepted at is PQAP (opcode b2af).
#[inline(always)]
fn is_pqap<E: Env>(env: &E, vcpu: u64) -> bool {
    let config = env.config();
    let block = adopt::pointer(env, vcpu, config.vcpu_sie_block);
    if block == 0 || config.sie_ipa == NO_OFFSET {
        return false;
    }
    let byte = |n: u64| env.read_u8(block + u64::from(config.sie_ipa) + n);
    byte(0) == Some(0xb2) && byte(1) == Some(0xaf)
}

/// An entry point returns this value.
#[inline(always)]
pub fn leave<E: Env>(env: &E, entry: u8, value: u64) {
    let Some(info) = env.entry_info(entry) else {
        return;
    };
    let Some((task, extremes)) = env.task() else {
        count_return(env, info, entry, value);
        failure(env, Program::Return, Note::NoTaskSlot, env.id());
        return;
    };
    attempts::settle(env, task, extremes);
    let n = task.inside_len.get();
    if n > MAX_NESTED as u64 {
        // The call was counted, but its record did not fit.
        begin(task);
        task.inside_len.set(n - 1);
        end(task);
        count_return(env, info, entry, value);
        return;
    }
    let Some((depth, inside)) = find(task, entry) else {
        if let Some(stats) = env.entry_stats(entry) {
            stats.unmatched_returns.add(1);
        }
        return;
    };
    let since = inside.since.get();
    let first = inside.first.get();
    let arg = inside.arg.get();
    let object = inside.object.get();
    let failed = info.flags & ENTRY_RETURNS_VOID == 0 && value as u32 >> 31 != 0;
    let (mdev, guest) = subject::at_return(env, entry, info, inside, failed);
    let writer = inside.writer.get() as u32;
    let comm = [inside.writer_comm[0].get(), inside.writer_comm[1].get()];
    begin(task);
    task.inside_len.set(depth);
    flags::forget_second_holds(task, entry);
    end(task);
    count_return(env, info, entry, value);
    let latency = env.now().saturating_sub(since);
    if let Some(stats) = env.entry_stats(entry) {
        add_full(&stats.latency, latency);
        stats.latency_sum.add(latency);
    }
    if let Some(extremes) = extremes
        .latency
        .get(entry as usize & (MAX_ENTRY_POINTS - 1))
    {
        extreme(extremes, latency);
    }
    if env.config().adopts != 0 {
        let refused = info.flags & ENTRY_RETURNS_VOID == 0 && value as u32 != 0;
        adopt::from_return(env, entry, object, refused);
        if entry == entry_id::PROBE && !failed {
            adopt::vfio(env, mdev, 1);
        }
    }
    let mut extra = arg;
    if info.flags & ENTRY_PQAP != 0 {
        // Bits 0 to 31 of GR0 mean nothing to PQAP, and make room for the response.
        extra &= 0xffff_ffff;
        if value as u32 == 0 {
            let response = count_response(env, entry, first, arg);
            extra |= PQAP_RESPONDED | (u64::from(response) << 32);
        }
    }
    let tid = task.id.get() as u32;
    let mut instance = NO_INSTANCE;
    if writer != 0 {
        instance = writer;
        let span = Span {
            start_ns: since,
            duration_ns: comm[0],
            extra: comm[1],
            tid,
            instance,
            result: 0,
            kind: SPAN_WRITER,
            what: entry,
            inside: 0,
            flags: 0,
        };
        emit(env, Program::Return, &span);
    }
    let span = Span {
        start_ns: since,
        duration_ns: latency,
        extra,
        tid,
        instance,
        result: value as i32,
        kind: SPAN_ENTRY,
        what: entry,
        inside: current_entry(task),
        flags: 0,
    };
    let written = env.write_call(&Call { span, mdev, guest });
    count_record(env, Program::Return, written);
}

/// The innermost call of this entry point, and its depth. Calls inside it whose return was not seen are dropped.
#[inline(always)]
fn find(task: &Task, entry: u8) -> Option<(u64, &Inside)> {
    let len = task.inside_len.get();
    let mut found = MAX_NESTED;
    for (depth, inside) in task.inside.iter().enumerate() {
        if (depth as u64) < len && inside.entry.get() as u8 == entry {
            found = depth;
        }
    }
    let depth = super::unknown(task, found);
    task.inside.get(depth).map(|inside| (depth as u64, inside))
}

#[inline(always)]
fn count_return<E: Env>(env: &E, info: EntryInfo, entry: u8, value: u64) {
    let value = if info.flags & ENTRY_RETURNS_VOID != 0 {
        0
    } else if info.flags & ENTRY_RETURNS_INT != 0 {
        i64::from(value as i32)
    } else {
        value as i64
    };
    let code = code_of(value, info.flags & crate::abi::ENTRY_RETURNS_NOTIFY != 0);
    if let Some(stats) = env.entry_stats(entry)
        && let Some(word) = stats.returns.get(super::opaque(code))
    {
        word.add(1);
    }
}

/// Index in [`crate::abi::EntryStats::returns`].
#[inline(always)]
fn code_of(value: i64, notify: bool) -> usize {
    if notify {
        // NOTIFY_DONE 0, NOTIFY_OK 1, NOTIFY_BAD 0x8002, NOTIFY_STOP 0x8001 (include/linux/notifier.h).
        return match value {
            0 => 0,
            1 => 1,
            0x8002 => 2,
            0x8001 => 3,
            _ => RETURN_CODES - 1,
        };
    }
    if value >= 0 {
        return 0;
    }
    if value < -(MAX_ERRNO as i64) {
        return RETURN_CODES - 1;
    }
    (-value) as usize
}

/// The object (mdev, kvm) and the argument for display.
#[inline(always)]
fn resolve<E: Env>(env: &E, info: EntryInfo, args: [u64; 6]) -> (u64, u64) {
    let config = env.config();
    let read = |address: u64| env.read_u64(address).unwrap_or(0);
    let bus = info.resolve == Resolve::BusText as u8;
    if bus || info.resolve == Resolve::Device as u8 {
        let (buffer, count) = if bus {
            (args[1], args[2])
        } else {
            (args[2], args[3])
        };
        let text = if buffer == 0 {
            0
        } else {
            read_text(env, buffer, count)
        };
        let object = if bus {
            0
        } else {
            read(args[0] + u64::from(config.device_driver_data))
        };
        (object, text)
    } else if info.resolve == Resolve::Show as u8 {
        (read(args[0] + u64::from(config.device_driver_data)), 0)
    } else if info.resolve == Resolve::MdevDevice as u8 {
        (
            read(args[0] + u64::from(config.mdev_device_driver_data)),
            args[1],
        )
    } else if info.resolve == Resolve::VfioDevice as u8 {
        (args[0], args[1])
    } else if info.resolve == Resolve::VcpuFile as u8
        || info.resolve == Resolve::KvmFilePv as u8
        || info.resolve == Resolve::VcpuCall as u8
    {
        (0, args[1])
    } else if info.resolve == Resolve::Notifier as u8 {
        (args[0] - u64::from(config.mdev_notifier), args[2])
    } else if info.resolve == Resolve::Vcpu as u8 || info.resolve == Resolve::VcpuB2 as u8 {
        (0, register(env, args[0], 0))
    } else if info.resolve == Resolve::Kvm as u8 || info.resolve == Resolve::Mdev as u8 {
        (args[0], 0)
    } else if info.resolve == Resolve::ApDevice as u8 {
        // `struct ap_device` begins with its `struct device` (drivers/s390/crypto/ap_bus.h, v5.10 to v7.2).
        let queue = adopt::pointer(env, args[0], config.ap_device_queue);
        let qid = env.read_u32(args[0] + u64::from(config.ap_device_qid));
        (queue, u64::from(qid.unwrap_or(0) as u16))
    } else if info.resolve == Resolve::NewMdev as u8 {
        (
            read(args[1] + u64::from(config.mdev_device_driver_data)),
            args[1],
        )
    } else if info.resolve == Resolve::Action as u8 {
        (0, args[1])
    } else if info.resolve == Resolve::Work as u8 {
        let queue = args[0].wrapping_sub(u64::from(config.queue_reset_work));
        let response = if config.queue_reset_rc == NO_OFFSET {
            None
        } else {
            env.read_u8(queue + u64::from(config.queue_reset_rc))
        };
        let shown = response.map_or(0, |code| PQAP_RESPONDED | (u64::from(code) << 32));
        (queue, shown)
    } else {
        (0, 0)
    }
}

/// The first bytes that were written to an attribute, in memory order.
#[inline(always)]
fn read_text<E: Env>(env: &E, buffer: u64, count: u64) -> u64 {
    let mut bytes = [0_u8; 8];
    for (i, byte) in bytes.iter_mut().enumerate() {
        if (i as u64) < count {
            *byte = env.read_u8(buffer + i as u64).unwrap_or(0);
        }
    }
    u64::from_ne_bytes(bytes)
}

/// A general register of a vCPU: `vcpu->run->s.regs.gprs[n]`; 0 if it cannot be read.
#[inline(always)]
fn register<E: Env>(env: &E, vcpu: u64, n: u64) -> u64 {
    let config = env.config();
    let run = env.read_u64(vcpu + u64::from(config.vcpu_run)).unwrap_or(0);
    if run == 0 {
        return 0;
    }
    env.read_u64(run + u64::from(config.run_gprs) + 8 * n)
        .unwrap_or(0)
}

/// Counts the PQAP response code of GR1 under the function code of GR0, and returns it.
#[inline(always)]
fn count_response<E: Env>(env: &E, entry: u8, vcpu: u64, gr0: u64) -> u8 {
    let function = (gr0 >> 24) as u8;
    let response = response_code(register(env, vcpu, 1));
    if let Some(word) = env.pqap(entry, function, response) {
        word.add(1);
    }
    response
}

/// Response code of the status that a handler has stored to GR1. The driver's handler stores it to the low word and
/// leaves the high word 0; kvm's own, where there is no hook, stores it to the high word (priv.c copies the four
/// status bytes to the start of the register).
#[inline(always)]
const fn response_code(gr1: u64) -> u8 {
    let status = if gr1 >> 32 != 0 { gr1 >> 32 } else { gr1 };
    (status >> 16) as u8
}

#[cfg(test)]
mod tests {
    use super::response_code;

    #[test]
    fn the_status_is_in_either_word() {
        assert_eq!(response_code(0x0000_0000_8001_0000), 1);
        assert_eq!(response_code(0x0001_0000_0000_0003), 1);
        assert_eq!(response_code(0), 0);
    }
}

# Everything that the driver does, counted three times: by apscope, by the program that does it, and by events of tracefs.
apscope doctor --json $btf >$O/doctor.json
echo $? >$O/doctor.code
grep -w matrix_dev /proc/kallsyms >$O/matrix_dev

# The independent tracer: an instance of its own, with the lock and the entry functions of mutexes.
I=$T/instances/lab
mkdir $I
echo 16384 >$I/buffer_size_kb
md=$(cut -d' ' -f1 $O/matrix_dev)
grep -qx mutex_lock_nested $T/available_filter_functions && nested=_nested
events_on() {
	for f in mutex_lock mutex_lock_killable mutex_lock_interruptible; do
		echo "p:lab/$f $f$nested lock=%r2:x64" >>$T/kprobe_events || echo "lab: no event for $f$nested"
	done
	echo "p:lab/pqap vfio_ap:handle_pqap vcpu=%r2:x64 matrix_dev=@0x$md:x64" >>$T/kprobe_events
	echo >$I/trace
	echo 1 >$I/events/lab/enable
}
events_off() {
	echo 0 >$I/events/lab/enable
	grep -E '^ *(pqap|mutex_lock)' $T/kprobe_profile >$O/events.profile
	cat $I/trace >$O/events
	for c in $I/per_cpu/cpu*/stats; do cat $c; done >$O/events.stats
	for e in pqap mutex_lock mutex_lock_killable mutex_lock_interruptible; do
		echo "-:lab/$e" >>$T/kprobe_events
	done
}

# Linux 7.2 may skip programs of kprobes. Then apscope says "at least", and it is done once more.
for attempt in 1 2 3; do
	measure trace record -o $O/trace.apscope
	# The bus is not scanned meanwhile: that would take the driver's locks at times that nobody counts.
	echo 120 >/sys/bus/ap/config_time
	events_on
	workload run --vms 2 --vcpus 2 --writers 2 --readers 1 --resetters 1 --iterations ${ITERATIONS:-50} --seed ${SEED:-1} --truth $O/truth.json
	echo $? >$O/workload.code
	events_off
	finish trace INT
	[ "$(cat $O/workload.code $O/trace.code | tr '\n' ' ')" = "0 0 " ] || break
	case $(uname -r) in 7.*) ;; *) break ;; esac
	grep -q 'skipped by the kernel' $O/trace.err || break
	echo "lab: programs were skipped in attempt $attempt"
done
rmdir $I
gone 60 >$O/trace.left

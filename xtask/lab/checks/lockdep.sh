# The same operations as in the deadlock, never two at once: nothing hangs, and both lockdep and apscope see the order.
apscope doctor --json $btf >$O/doctor.json
echo $? >$O/doctor.code
measure before record -o $O/before.apscope
workload run --vcpus 1 --iterations 10 --truth $O/truth.json
echo $? >$O/workload.code
finish before INT
dmesg >$O/dmesg.before

measure after record -o $O/after.apscope
workload serial --vcpus 1 --iterations 2
finish after INT
dmesg >$O/dmesg.after

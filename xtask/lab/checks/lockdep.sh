# The same operations as in the deadlock, never two at once: nothing hangs, and both lockdep and apscope see the order.
apscope doctor --json $btf >$O/doctor.json
echo $? >$O/doctor.code
measure lockdep record -o $O/lockdep.apscope
workload run --vcpus 1 --iterations 10 --truth $O/truth.json
echo $? >$O/workload.code
dmesg >$O/dmesg.before
# What is on disk by now; a recording is written twice a second.
sleep 5
cp $O/lockdep.apscope $O/before.part

workload serial --vcpus 1 --iterations 2
finish lockdep INT
dmesg >$O/dmesg.after

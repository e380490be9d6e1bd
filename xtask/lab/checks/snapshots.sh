# A busy guest, read from memory again and again, while probes see the same.
measure traced record -o $O/traced.apscope
workload run --vcpus 2 --writers 2 --readers 2 --duration 900000 --until /tmp/stop >$O/workload.out 2>&1 &
busy=$!
sleep 1
# A reading of Linux 7.2 takes longer.
case $(uname -r) in 5.*) long=25s ;; *) long=35s ;; esac
apscope $btf --level 0 --interval 10ms --duration $long record -o $O/snapshots.apscope >$O/snapshots.out 2>$O/snapshots.err
echo $? >$O/snapshots.code
echo >/tmp/stop
wait $busy
echo $? >$O/workload.code
finish traced INT
gone 60 >$O/traced.left

# A busy guest, read from memory again and again, while probes see the same. How long a reading takes is the machine's
# business: there are recordings until they have readings enough, ten at most.
measure traced record -o $O/traced.apscope
workload run --vcpus 2 --writers 2 --readers 2 --duration 900000 --until /tmp/stop >$O/workload.out 2>&1 &
busy=$!
sleep 1
readings=0
for n in 1 2 3 4 5 6 7 8 9 10; do
	apscope $btf --level 0 --interval 10ms --duration 20s record -o $O/snapshots-$n.apscope \
		>$O/snapshots-$n.out 2>$O/snapshots-$n.err
	echo $? >$O/snapshots-$n.code
	more=$(sed -n 's/^recorded \([0-9]*\) frames.*/\1/p' $O/snapshots-$n.err)
	# The first and the last are not compared, nor those before probes were there.
	readings=$((readings + ${more:-2} - 2))
	[ $readings -lt 151 ] || break
done
echo >/tmp/stop
wait $busy
echo $? >$O/workload.code
finish traced INT
gone 60 >$O/traced.left

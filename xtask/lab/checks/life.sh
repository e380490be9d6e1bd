# What goes away while apscope is attached: apscope itself, a guest, the driver.
measure kill record -o $O/kill.apscope
workload run --vcpus 1 --duration 900000 --until /tmp/stop >/dev/null &
busy=$!
sleep 1
finish kill KILL
# What is assigned, and what of it the guest has, by the kernel's memory and by the driver itself.
apscope $btf --level 0 export --format json --duration 2s -o $O/matrix.json
for m in /sys/devices/vfio_ap/matrix/*-*-*; do
	echo "uuid ${m##*/}"
	sed 's/^/assigned /' $m/matrix
	# Before v6.0 a guest has all of it.
	[ -f $m/guest_matrix ] || sed 's/^/in_guest /' $m/matrix
	[ ! -f $m/guest_matrix ] || sed 's/^/in_guest /' $m/guest_matrix
done >$O/matrix.sysfs
# The driver is used for a tenth of the time, so that the verifier has the processors for the rest.
pace() {
	while :; do
		kill -STOP $(pidof workload)
		usleep 900000
		kill -CONT $(pidof workload)
		usleep 100000
	done
}
pace &
pacer=$!
gone 60 >$O/kill.left

no_workload() { ! pidof workload; }

# Guests end in the middle of PQAP, their mdev is removed after them, and then the driver.
measure unload record -o $O/unload.apscope
kill $pacer
kill -CONT $(pidof workload)
sleep 1
# The workload's guest is a child of the process that was started here.
kill -9 $(pidof workload)
wait $busy
until_true 60 no_workload
workload cleanup
workload run --vcpus 1 --iterations 20 >/dev/null
rmmod vfio_ap
code=$?
echo $code >$O/rmmod.code
[ $code = 0 ] || kill -INT $tracer
finish unload
gone 60 >$O/unload.left

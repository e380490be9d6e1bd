# The deadlock of 2021: a vCPU in PQAP, a conversion to a protected guest, and the release of its device. Afterwards three
# tasks never come back, and apscope has to do with that.
measure hang diagnose --json --duration 20s
workload deadlock --duration 15000 --truth $O/truth.json >$O/workload.out 2>&1
echo $? >$O/workload.code
dmesg >$O/dmesg.hung
sleep 2
echo "lab: it hangs, and who finds that has found it"
finish hang
gone 60 >$O/hang.left

# Who comes when it hangs already: an answer from the kernel's memory, before anything is attached.
cut -d' ' -f1 /proc/uptime >$O/first.began
apscope $btf diagnose --json >$O/first.out 2>$O/first.err
echo $? >$O/first.code
cut -d' ' -f1 /proc/uptime >$O/first.ended
leftovers | tr '\n' ' ' >$O/first.left

# Workers that free what apscope had loaded are asleep meanwhile too.
asleep() { cat /proc/[0-9]*/task/*/status 2>/dev/null | grep -c '^State:.*D'; }
only_three() { [ "$(asleep)" = 3 ]; }
until_true 60 only_three
# What the kernel itself says: tasks that are asleep for good.
echo w >/proc/sysrq-trigger
dmesg >$O/dmesg.sysrq

# And what it opens meanwhile.
if [ -x /share/bin/strace ]; then
	lib=/share/bin
	$lib/ld64.so.1 --library-path $lib $lib/strace -f -e trace=open,openat,openat2 -o $O/strace \
		apscope $btf diagnose --json >$O/traced.out 2>$O/traced.err
fi

# The same with everything attached. With lockdep that is the same, and takes minutes.
case $(uname -r) in
*lockdep*) ;;
*)
	measure late diagnose --json --duration 5s
	finish late
	gone 60 >$O/late.left

	measure kill record -o $O/kill.apscope
	sleep 2
	finish kill KILL
	gone 60 >$O/kill.left
	;;
esac
until_true 60 only_three
# State and waiting place of the tasks that hang.
for t in /proc/[0-9]*/task/*; do
	read -r comm 2>/dev/null <$t/comm || continue
	state=$(awk '/^State/ { print $2 }' $t/status 2>/dev/null)
	if [ "$state" = D ]; then
		echo "$comm $(cat $t/wchan)"
	fi
done >$O/stuck

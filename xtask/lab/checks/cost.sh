# The same work with and without tracing, in turns.
work() {
	begin=$(awk '{ print $1 }' /proc/uptime)
	workload run --vcpus 1 --iterations 300 >/dev/null || exit 1
	echo "$1 $begin $(awk '{ print $1 }' /proc/uptime)" >>$O/times
}
work warm
work bare
work bare
measure cost record -o $O/cost.apscope
work traced
work traced
work traced
work traced
finish cost INT
gone 60 >$O/cost.left
work bare
work bare

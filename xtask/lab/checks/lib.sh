# What the scripts of the lab's tests share. Results go to $O, in memory, and to the share when the script ends.
O=/tmp/out
T=/sys/kernel/tracing
mkdir -p $O
trap 'dmesg >$O/dmesg; cp -r $O/. /share/out/' EXIT
btf=
for f in /share/btf/*.btf; do [ -f "$f" ] && btf="$btf --btf $f"; done

# until_true SECONDS COMMAND...: waits until the command succeeds; fails when it does not in that time. To look costs the
# emulated processors tens of milliseconds.
until_true() {
	left=$(($1 * 4))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $left -gt 0 ] || return 1
		left=$((left - 1))
		usleep 250000
	done
}

# measure NAME COMMAND...: apscope in the background at level 2, and waits until everything is attached. Its process is
# $tracer.
measure() {
	name=$1
	shift
	apscope -v --level 2 --max-overhead 100 $btf "$@" >$O/$name.out 2>$O/$name.err &
	tracer=$!
	until_true 400 grep -q 'everything of level 2 is attached' $O/$name.err && {
		echo "lab: $name measures after $(cut -d' ' -f1 /proc/uptime) s"
		return
	}
	echo "lab: $name did not begin to measure"
	cat $O/$name.err
	exit 1
}

# finish NAME SIGNAL: ends it; its exit code goes to NAME.code.
finish() {
	[ -z "$2" ] || kill -$2 $tracer
	wait $tracer
	echo $? >$O/$1.code
	echo "lab: $1 ended after $(cut -d' ' -f1 /proc/uptime) s"
}

# Events of apscope in tracefs, and its processes.
leftovers() {
	grep -c apscope $T/kprobe_events
	ps | grep -c '[a]pscope'
}

# gone SECONDS: waits until there is neither, and says what is left.
no_leftovers() { [ "$(leftovers | tr '\n' ' ')" = "0 0 " ]; }
gone() {
	until_true $1 no_leftovers
	leftovers | tr '\n' ' '
}

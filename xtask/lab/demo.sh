# The demonstration: guests, writers and resets, and the dashboard in front of them. On 5.10 the deadlock of 2021 follows
# after a while: a conversion to a protected guest meets a vCPU in PQAP and the release of its device.
case $(uname -r) in
5.10*) (
	workload run --vms 1 --vcpus 2 --writers 1 --readers 1 --duration 15000
	workload deadlock
) >/tmp/workload 2>&1 & ;;
*) workload run --vms 2 --vcpus 2 --writers 2 --readers 1 --resetters 1 --rebind 2000 --until /tmp/stop >/tmp/workload 2>&1 & ;;
esac
apscope --level 2 --max-overhead 100

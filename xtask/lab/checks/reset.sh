# A reset that the hardware does not finish for seconds, with vCPUs, writers and readers behind it. The recording ends
# while it lasts.
measure reset record -o $O/reset.apscope
workload reset --reset-ms 600000 --vcpus 2 --writers 1 --readers 1 --ready /tmp/ready --until /tmp/stop >$O/workload.out 2>&1 &
until_true 60 [ -e /tmp/ready ]
sleep 4
# Who comes when it lasts already, and attaches nothing.
apscope --level 0 --duration 2s diagnose --json --threshold reset=1s >$O/late.out 2>$O/late.err
echo $? >$O/late.code
finish reset INT
gone 60 >$O/reset.left
echo >/tmp/stop

# 200 tasks blocked on one lock, with more to run than there are CPUs.
measure pile record -o $O/pile.apscope
workload pile --truth $O/truth.json >$O/workload.out 2>&1
echo $? >$O/workload.code
finish pile INT
gone 60 >$O/pile.left

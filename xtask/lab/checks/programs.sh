# Every eBPF program of the s390x object before this kernel's verifier, attached to nothing.
apscope doctor --programs --json $btf >$O/programs.json
echo $? >$O/programs.code
gone 60 >$O/programs.left

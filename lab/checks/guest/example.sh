# The plain module, from insmod to rmmod.

try() { # try NAME COMMAND...: ok if the command succeeds
    name=$1
    shift
    if "$@" >/tmp/said 2>&1; then echo "ok $name"; else echo "fail $name: $(tail -1 /tmp/said)"; fi
}
refused() { # refused NAME REASON COMMAND...: ok if the command fails, and says so
    name=$1 reason=$2
    shift 2
    if "$@" >/tmp/said 2>&1; then
        echo "fail $name: it was not refused"
    elif grep -q "$reason" /tmp/said; then
        echo "ok $name"
    else
        echo "fail $name: $(tail -1 /tmp/said)"
    fi
}

try "insmod" insmod modules/lkmc_mmap.ko
bin/test --log /proc/lkmc_mmap || echo "fail the test as root: exit code $?"
# what an ordinary user is not shown root was
set -o pipefail
su user -c "bin/test /proc/lkmc_mmap" | sed 's/^skip/#/' || echo "fail the test as an ordinary user: exit code $?"
try "the two-mappings test as root" bin/two_mappings /proc/lkmc_mmap
try "the two-mappings test as an ordinary user" su user -c "bin/two_mappings /proc/lkmc_mmap"

try "20 at once" sh -c '
    for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        su user -c "bin/two_mappings /proc/lkmc_mmap" >/dev/null & pids="$pids $!"
    done
    for pid in $pids; do wait $pid || exit 1; done'

# where the kernel has fault injection: an open without memory is ENOMEM, and loses nothing (kmemleak looks)
if [ -d /sys/kernel/debug/failslab ]; then
    for failing in failslab fail_page_alloc; do
        echo N >/sys/kernel/debug/$failing/ignore-gfp-wait
        echo 0 >/sys/kernel/debug/$failing/verbose
    done
    echo 0 >/sys/kernel/debug/fail_page_alloc/min-order
    bin/fail_nth /proc/lkmc_mmap
    try "afterwards it can be opened" bin/two_mappings /proc/lkmc_mmap
fi

exec 3</proc/lkmc_mmap
refused "rmmod is refused while it is open" "Resource temporarily unavailable\|in use" rmmod lkmc_mmap
exec 3<&-
try "rmmod" rmmod lkmc_mmap
refused "it is gone" "No such file" cat /proc/lkmc_mmap
try "insmod again" insmod modules/lkmc_mmap.ko
try "rmmod again" rmmod lkmc_mmap

opened=$(dmesg | grep -c 'lkmc_mmap: vm_open$')
closed=$(dmesg | grep -c 'lkmc_mmap: vm_close$')
if [ "$opened" -gt 40 ] && [ "$opened" = "$closed" ]; then
    echo "ok as many vm_open as vm_close: $opened"
else
    echo "fail as many vm_open as vm_close: $opened and $closed"
fi

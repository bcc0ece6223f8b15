# Each program prints its own lines; what they leave behind would keep the module from being unloaded.
insmod modules/mapdev.ko || { echo "fail load: insmod"; exit 1; }
for program in memory calls ends limits foreign; do
    "bin/$program" || echo "# $program ended with $?"
done

# programs that know nothing of all this
bin/server &
server=$!
while [ ! -e /dev/mapdev_test ]; do sleep 0.1; done
bytes=$(dd if=/dev/mapdev_test bs=5000 count=4 2>/dev/null | wc -c)
if [ "$bytes" = 16384 ]; then echo "ok dd"; else echo "fail dd: $bytes bytes"; fi
if echo hello >/dev/mapdev_test; then echo "ok echo"; else echo "fail echo: it could not write"; fi
# a program that does to a device all that it can think of; what matters is that the kernel has nothing to complain of
# and lets the module go afterwards
if [ -e missing/stress-ng ]; then
    echo "skip stress-ng: $(cat missing/stress-ng)"
else
    bin/server persistent
    for device in mapdev_test mapdev_kept mapdev; do
        stress-ng --dev 1 --dev-file /dev/$device --timeout 5 >stress 2>&1
        code=$?
        if [ $code = 0 ] && grep -q "1 of 1 devices opened and exercised" stress; then
            echo "ok stress-ng of $device"
        else
            cat stress
            echo "fail stress-ng of $device: exit code $code"
        fi
    done
    bin/server remove
fi
kill -KILL $server
wait $server
ls /dev/mapdev_test /proc/mapdev_test 2>/dev/null && echo "fail leftovers: a device is still there" || echo "ok leftovers"
if rmmod mapdev; then echo "ok unload"; else echo "fail unload: the module is in use"; fi
# hardly any room for requests and notices: everything waits, what is not told of is not told of in pairs
insmod modules/mapdev.ko max_requests=2 max_notices=4 max_bytes=8388608 || echo "fail load: insmod with parameters"
bin/limits storm | sed 's/storm/storm-in-little-room/'
bin/limits touching-too-much | sed 's/touching/touching-a-little/'
if rmmod mapdev; then echo "ok unload-again"; else echo "fail unload-again: the module is in use"; fi

# where the kernel has fault injection: each allocation fails once
if [ -d /sys/kernel/debug/failslab ]; then
    for failing in failslab fail_page_alloc; do
        echo N >/sys/kernel/debug/$failing/ignore-gfp-wait
        echo 0 >/sys/kernel/debug/$failing/verbose
    done
    echo 0 >/sys/kernel/debug/fail_page_alloc/min-order
    insmod modules/mapdev.ko || echo "fail load: insmod for failing allocations"
    bin/failing || echo "# failing ended with $?"
    if rmmod mapdev; then echo "ok unload-after-failures"; else echo "fail unload-after-failures: the module is in use"; fi
fi

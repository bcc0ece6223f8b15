#!/bin/sh
# The first process of a guest. What it prints on the second serial line is the result; the first one is the kernel's.
export PATH=/usr/bin HOME=/tmp TMPDIR=/tmp LC_ALL=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /dev/pts
mount -t devpts pts /dev/pts
mount -t tmpfs -o mode=1777 tmp /dev/shm
mount -t tmpfs -o mode=1777 tmp /tmp
mount -t debugfs debug /sys/kernel/debug 2>/dev/null
ln -s /proc/self/fd /dev/fd
exec >/dev/ttyS1 2>&1 </dev/null
stty -onlcr </dev/ttyS1

cd /lab
. ./settings # LIMIT BODY KERNEL_MODULES

end() { # end CODE: every process is gone after this
    echo "lab: exit $1"
    echo "lab: tainted $(cat /proc/sys/kernel/tainted)"
    if [ -w /sys/kernel/debug/kmemleak ]; then
        # only what is older than 5 s is reported, and only if two scans agree
        sleep 6
        for scan in 1 2; do echo scan >/sys/kernel/debug/kmemleak; done
        echo "lab: leaks $(grep -c '^unreferenced' /sys/kernel/debug/kmemleak)"
        cat /sys/kernel/debug/kmemleak
    fi
    echo "lab: end"
    sync
    reboot -f
}

ip link set lo up
for module in $KERNEL_MODULES; do
    insmod "/lab/kernel/$module.ko" || { echo "fail load: $module of the kernel's own package"; end 1; }
done

case $BODY in
*.py) program=python3 ;;
*) program=sh ;;
esac
timeout -s KILL "$LIMIT" "$program" "$BODY"
code=$?
if [ "$code" = 137 ]; then
    echo "lab: the script did not end within $LIMIT s"
    echo w >/proc/sysrq-trigger # who sleeps where, to the kernel's log
fi
end "$code"

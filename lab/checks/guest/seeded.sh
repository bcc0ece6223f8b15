# lockdep first: it stops looking after any other report.
for bug in lock_inversion leak warn write_after_free use_after_free; do
    if insmod modules/seeded.ko bug=$bug && rmmod seeded; then
        echo "ok $bug was made"
    else
        echo "fail $bug: seeded.ko cannot be loaded"
    fi
done

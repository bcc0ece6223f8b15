"""What mapdev costs, beside tmpfs and its peers, on this machine: ``make bench``, ``python -m bench``.

client.c        what programs do, timed: one job on one path
contenders.py   who is measured, and how its server is started
peers/          the same device on libfuse (C), CUSE (C), pyfuse3, mfusepy
device.py       ... and on mapdev; untraced.py: mapdev without any trace in it
jobs.py         what is measured of whom, in rounds that take turns
run.py          `mapdev run` beside running directly
memory.py       the memory of a host by open files, and by opens made
growth.py       cost by size of a device, number of devices, number of clients
loop.py         a bare loop, for experiments: uring.py (requests over io_uring), workers.py (several processes)
statistic.py    medians, how sure they are, ratios
verdicts.py     the ratios that the project wants, and whether they are reached
result.py       what was measured, as JSON
tables.py plots.py page.py   for people: tables, curves, docs/bench.md
"""

"""Many kernels to try things on: which, how to get, build for, and boot them. Described in docs/lab.md.

Not part of the wheel. Each step is a file with a command line of its own:

    python -m lab.fetch 6.12                    the kernel, its headers and its compiler, into the cache
    python -m lab.build 6.12 examples/lkmc_mmap  a module, with all that the compiler says
    python -m lab.boot 6.12 -- uname -a         a guest that runs a command
    python -m lab.run                           every check on every kernel, and a table (make lab)
"""

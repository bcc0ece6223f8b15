"""``python -m mapdev.conformance REQUEST``: the process that `mapdev.conformance.verify` starts."""

import sys

from mapdev.conformance.worker import main

main(sys.argv[1])

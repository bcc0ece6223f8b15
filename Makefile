# The two commands of this project are `make demo` and `make test`; both set up what they need.
# CONTRIBUTING.md says what the others are for.

VENV := .venv

.PHONY: demo demo-kernel test check wheel bench lab lab-sanitize fidelity clean

# where /dev/fuse cannot be opened it is demo-kernel
demo: $(VENV)/demo.stamp
	scripts/demo

# the same device as a real /proc file, by the kernel module, in a guest with a Debian kernel
demo-kernel: $(VENV)/lab.stamp
	scripts/demo-kernel

# two at a time: for the most part they wait
test: $(VENV)/test.stamp
	$(VENV)/bin/pytest -n 2 --dist worksteal

check: $(VENV)/test.stamp
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

# the wheel, installed with pip alone into an environment that has nothing else of this tree
wheel: $(VENV)/test.stamp
	scripts/try-wheel

# what mapdev costs beside tmpfs and its peers; QUICK=1: in a minute; BENCH="--docs --json FILE" and the like: see --help
bench: $(VENV)/bench.stamp
	$(VENV)/bin/python -m bench $(if $(QUICK),--quick) $(BENCH)
	$(VENV)/bin/python bench/trap.py $(if $(QUICK),--rounds 1)

# checks in guests of many kernels, or of some: make lab KERNELS="6.12 7.3" CHECKS=example (docs/lab.md)
lab: $(VENV)/lab.stamp
	$(VENV)/bin/python -m lab.run --kernels "$(KERNELS)" --checks "$(CHECKS)"

# the same on a kernel of our own with KASAN, lockdep and kmemleak, which is built first
lab-sanitize: $(VENV)/lab.stamp
	$(VENV)/bin/python -m lab.run --kernels sanitize --checks "$(CHECKS)"

# docs/fidelity.md anew: mapdev verify of the same device in every way to serve it, on the lab's kernels
fidelity: $(VENV)/lab.stamp
	$(VENV)/bin/python -m lab.fidelity

clean:
	rm -rf $(VENV) .cache dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/%.stamp: pyproject.toml scripts/setup
	scripts/setup $*
	touch $@

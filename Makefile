# The two commands of this project are `make demo` and `make test`; both set up what they need.
# CONTRIBUTING.md says what the others are for.

VENV := .venv

.PHONY: demo test check wheel bench clean

demo: $(VENV)/demo.stamp
	$(VENV)/bin/mapdev demo

test: $(VENV)/test.stamp
	$(VENV)/bin/pytest

check: $(VENV)/test.stamp
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy

# the wheel, installed with pip alone into an environment that has nothing else of this tree
wheel: $(VENV)/test.stamp
	scripts/try-wheel

# what `mapdev run` costs beside running directly, as ratios
bench: $(VENV)/test.stamp
	$(VENV)/bin/python bench/run.py

clean:
	rm -rf $(VENV) .cache dist build .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(VENV)/%.stamp: pyproject.toml scripts/setup
	scripts/setup $*
	touch $@

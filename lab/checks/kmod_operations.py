"""The list of operations and faults that every host passes, by the kernel module: pytest --host=kernel in the guest."""

from importlib.util import find_spec
from pathlib import Path

from lab.check import Check
from mapdev.errors import UsageError

_NEEDED = ("_pytest", "pytest", "py", "pluggy", "iniconfig", "packaging", "pygments", "pytest_timeout")


def _place(name: str) -> Path:
    """The directory or file of a package that is pure Python. Raises ``UsageError``."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise UsageError(f"kmod_operations needs {name}: pip install -e '.[dev]', or leave it out with --checks")
    path = Path(spec.origin)
    return path.parent if path.name == "__init__.py" else path


CHECK = Check(
    body="kmod_operations.py",
    modules=("kmod",),
    files=(*(str(_place(name)) for name in _NEEDED), "tests", "pyproject.toml"),
    python=True,
    timeout=3600,
)

"""mapdev as if it had no trace: ``python -m bench.untraced serve ...``.

A trace that is off must cost nothing; beside what, is seen only in a build that has none. Before anything imports it,
``mapdev.dispatch`` is compiled from its source without every statement that speaks of a trace.
"""

import ast
import importlib.util
import sys
from types import ModuleType


class _Without(ast.NodeTransformer):
    """Removes the functions of the trace, what is done if there is one, and where it is kept."""

    def __init__(self) -> None:
        self.removed = 0

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST | None:
        return self._remove() if node.name in ("_traced", "_log_line") else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | None:
        return self._remove() if "trace" in ast.unparse(node.test) and not node.orelse else self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        return self._remove() if ast.unparse(node) == "self._trace = trace" else node

    def _remove(self) -> ast.AST | None:
        self.removed += 1
        return None


def source_without_trace(source: str) -> str:
    """Raises ``ValueError`` if the source is no longer one that this understands."""
    without = _Without()
    tree = ast.fix_missing_locations(without.visit(ast.parse(source)))
    left = ast.unparse(tree)
    if without.removed < 4 or "_traced" in left or "_trace" in left.replace("__traceback__", ""):
        raise ValueError("bench/untraced.py does not fit mapdev/dispatch.py any more: traces are still in it")
    return left


def install() -> None:
    """From now on ``mapdev.dispatch`` is the one without a trace."""
    spec = importlib.util.find_spec("mapdev.dispatch")
    assert spec is not None
    assert spec.origin is not None
    module = ModuleType(spec.name)
    module.__file__, module.__spec__ = spec.origin, spec
    with open(spec.origin, encoding="utf-8") as file:
        code = compile(source_without_trace(file.read()), spec.origin, "exec")
    sys.modules[spec.name] = module
    exec(code, module.__dict__)


if __name__ == "__main__":
    install()
    from mapdev.cli import main

    main()

"""TARGET: how a device is named on the command line.

lkmc_mmap  ram:64M           a built-in device, with a parameter if it takes one
timer.py   timer.py:Timer    a class of a file; without its name, the only Device in it
package.module:Timer         a class of a module that can be imported
chip.rdl  chip.svd:TIMER0    registers that a file describes (see ``mapdev.devices.described``)
NAME=TARGET                  any of these, served under another file name
"""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from mapdev.device import Device
from mapdev.devices import BUILTIN, builtin
from mapdev.errors import MapdevError, TargetError

_T = TypeVar("_T")


def load(target: str, path: str = "") -> tuple[str, Device]:
    """(file name, device) for one TARGET. Runs the author's code. Raises ``UsageError``.

    `path`: where programs find it, if that is known: of described registers it says which device they are in.
    """
    name, equals, rest = target.partition("=")
    if not equals:
        name, rest = "", target
    elif not name:
        raise TargetError(f"{target!r} has no name before its '=': write NAME=TARGET")
    device = _device(rest, path)
    name = name or device.node_name()
    if not isinstance(name, str):
        raise TargetError(f"{rest} has the name {name!r}: give it a file name")
    return name, device


def load_all(targets: tuple[str, ...]) -> dict[str, Device]:
    """File name -> device for several. Raises ``TargetError``, also for a name that comes twice."""
    devices: dict[str, Device] = {}
    for target in targets:
        name, device = load(target)
        if name in devices:
            raise TargetError(f"two devices are called {name}: give one another name (NAME={target})")
        devices[name] = device
    return devices


def _device(target: str, path: str) -> Device:
    word, colon, rest = target.partition(":")
    if word.partition("@")[0].endswith((".rdl", ".svd")):
        from mapdev.devices.described import described_device

        return described_device(target, path)()
    if word in BUILTIN:
        return _builtin(builtin(word), rest if colon else None)
    if word.endswith(".py") or "/" in word:
        module = _module_of_file(Path(word))
    elif colon or "." in word:
        module = _by_author(lambda: importlib.import_module(word), word)
    else:
        known = ", ".join(sorted(BUILTIN))
        raise TargetError(f"there is no device {target!r}: name a file (./{word}.py) or a built-in one ({known})")
    cls = _class(module, word, rest if colon else None)
    return _by_author(cls, f"{word}:{cls.__name__}")


def _builtin(cls: type[Device], parameter: str | None) -> Device:
    try:
        return cls() if parameter is None else cls.with_parameter(parameter)
    except (ValueError, OverflowError) as error:
        raise TargetError(str(error)) from error
    except OSError as error:
        raise TargetError(f"{cls.node_name()}: {error.strerror or error}") from error


def _class(module: ModuleType, where: str, name: str | None) -> type[Device]:
    if name is not None:
        cls = getattr(module, name, None)
        if not (isinstance(cls, type) and issubclass(cls, Device)):
            raise TargetError(f"{where} has no Device called {name!r}; it has {_listed(_devices(module))}")
        return cls
    found = _devices(module)
    if len(found) != 1:
        what = "no Device: define a subclass of mapdev.Device" if not found else f"several: name one ({where}:NAME)"
        raise TargetError(f"{where} has {_listed(found) + ', ' if found else ''}{what}")
    return found[0]


def _devices(module: ModuleType) -> list[type[Device]]:
    """Those defined in the module itself, without what is there only to be subclassed in it."""
    own = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Device) and value.__module__ == module.__name__
    ]
    return [cls for cls in own if not cls.__name__.startswith("_")]


def _listed(classes: list[type[Device]]) -> str:
    return ", ".join(cls.__name__ for cls in classes) or "none"


def _module_of_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise TargetError(f"there is no file {path}: name the Python file of the device, or a built-in one")
    file, name = str(path.absolute()), path.stem
    there = sys.modules.get(name)
    if name in sys.stdlib_module_names or (there is not None and getattr(there, "__file__", None) != file):
        name = file  # it must not stand in for another module
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise TargetError(f"{path} is not a Python file: its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    loader = spec.loader

    def run() -> ModuleType:
        beside = str(path.parent.absolute())
        if beside not in sys.path:
            sys.path.append(beside)  # what lies beside it can be imported, and cannot stand in for a standard module
        sys.modules[name] = module
        try:
            loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module

    return _by_author(run, str(path))


def _by_author(call: Callable[[], _T], what: str) -> _T:
    """Run the author's code; what goes wrong in it is shown as the author's, and nothing of ours with it."""
    try:
        return call()
    except MapdevError:  # it is said already, in one line
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and f"{what}.".startswith(f"{error.name}."):
            raise TargetError(f"there is no module {what!r} that can be imported") from error
        failure: BaseException = error
    except (Exception, SystemExit) as error:
        failure = error
    trail = failure.__traceback__
    while trail is not None and _is_ours(trail.tb_frame.f_code.co_filename):
        trail = trail.tb_next
    shown = "".join(traceback.format_exception(type(failure), failure, trail))
    # the line that names the exception; those before it show the place of a syntax error
    why = next(line for line in traceback.format_exception_only(failure) if not line.startswith(" "))
    raise TargetError(f"{what} cannot be loaded: {why.splitlines()[0]}", detail=shown) from failure


def _is_ours(filename: str) -> bool:
    return filename == __file__ or "importlib" in filename

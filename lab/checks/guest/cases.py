"""Test functions in a guest, and the lines that the lab reads (lab/check.py). In /lab, so that scripts can import it.

from cases import Skip, run

def test_this_is_so() -> None:
    if not possible:
        raise Skip("the reason")
    assert this

run(globals())
"""

import sys
import traceback
from collections.abc import Mapping


class Skip(Exception):  # noqa: N818 - not an error
    """This cannot be tried here; the text says why."""


def run(names: Mapping[str, object]) -> None:
    """Call each function whose name begins with ``test_``, in the order of the file, and say what became of it.

    A failure is followed by its traceback. Does not return: the exit code is 1 if one failed.
    """
    failed = False
    for name, function in list(names.items()):
        if not (name.startswith("test_") and callable(function)):
            continue
        title = name.removeprefix("test_").replace("_", " ")
        try:
            function()
        except Skip as skip:
            print(f"skip {title}: {skip}", flush=True)
        except Exception as error:
            failed = True
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            print(f"fail {title}: {reason}\n{traceback.format_exc()}", flush=True)
        else:
            print(f"ok {title}", flush=True)
    sys.exit(failed)

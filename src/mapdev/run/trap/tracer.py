"""The thread that traces a program: every stop of every thread of it is answered here.

A thread of the program is, as seen from here, in one of these states:

    runs       from any state, by cont
    SIGBUS     touched a page that is not there: carried out (``access``), or delivered
    signal     any other signal is about to be delivered: it is
    seccomp    is about to map a file (``closing``); if a register had to be changed for that, it goes on as
    returns    until the call returns, and gets the register back
    stopped    its group is stopped (SIGSTOP, Ctrl-Z): it is left so, until SIGCONT (PTRACE_LISTEN)
    begins     the first stop of a thread or process that the program has started, and which is traced by that
    exec       it has become another program: what was known of its memory is forgotten

A thread may be killed in any of them; then calls fail with ESRCH, and its end is the next that is heard of it. Nothing
is kept of a thread but in the state "returns", and of a process but what ``Areas`` has open.

The program is traced by PTRACE_SEIZE, so signals, group stops and the end of it are for others as ever. If this thread
ends, all that it traces is killed (PTRACE_O_EXITKILL): its mappings would be dead.

Sources: ptrace(2), waitpid(2).
"""

import errno
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from mapdev.errors import HostError
from mapdev.run.trap import closing, ptrace
from mapdev.run.trap.access import Accesses, Seen
from mapdev.run.trap.areas import Areas
from mapdev.run.trap.blocks import Blocks
from mapdev.run.trap.stops import wait

log = logging.getLogger("mapdev.trap")

_SIGBUS_STOP: Final = signal.SIGBUS << 8 | 0x7F
_SYSCALL_STOP: Final = ptrace.SYSCALL_STOP << 8 | 0x7F
_STOP_SIGNALS: Final = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}


class Tracer:
    """Traces one program, and all that it starts. ``status``: how the program ended (as waitpid(2) has it)."""

    def __init__(self, pid: int, make_blocks: Callable[[], Blocks], seen: Seen | None) -> None:
        """`pid`: what becomes the program. `make_blocks` is called in the thread that traces."""
        self.status: int | None = None
        self.ended = threading.Event()
        """The program itself has ended (not what it has left behind)."""
        self._pid = pid
        self._make_blocks = make_blocks
        self._seen = seen
        self._attached = threading.Event()
        self._refused: BaseException | None = None
        self._processes: dict[int, Areas] = {}
        """Thread -> the areas of its process."""
        self._of_process: dict[int, Areas] = {}
        self._returns: dict[int, tuple[int, int]] = {}
        self._thread = threading.Thread(target=self._run, name="mapdev-tracer", daemon=True)

    def start(self) -> None:
        """Returns when the program is traced. Raises ``HostError`` where that is forbidden."""
        self._thread.start()
        self._attached.wait()
        if self._refused is not None:
            raise self._refused

    def close(self, timeout: float) -> None:
        """Wait for the end of all that is traced."""
        self._thread.join(timeout)

    # -- the thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())  # see Executor: rsp may be the program's
        try:
            self._blocks = self._make_blocks()
            self._accesses = Accesses(self._blocks, self._seen)
            ptrace.seize(self._pid)
        except OSError as error:
            self._refused = HostError(why_refused(self._pid, error))
            return
        except BaseException as error:
            self._refused = error
            return
        finally:
            self._attached.set()
        try:
            self._trace()
        except Exception:
            log.exception("the program is killed, since its accesses cannot be carried out any more")
        finally:
            self._blocks.close()
            self.ended.set()

    def _trace(self) -> None:
        touched, go, cont = self._accesses.touched, self._accesses.go, ptrace.cont
        goes_on = 0
        while True:
            try:
                tid, status = go(goes_on) if goes_on else wait()
            except ChildProcessError:
                return
            goes_on = 0
            try:
                if status == _SIGBUS_STOP:
                    try:
                        number = touched(tid, self._processes.get(tid) or self._areas(tid))
                    except PermissionError:
                        number = signal.SIGBUS  # its own: a program that we may not look at has nothing closed
                    if number:
                        cont(tid, number)
                    else:
                        goes_on = tid
                elif os.WIFSTOPPED(status):
                    self._stopped(tid, status)
                else:
                    self._gone(tid, status)
            except OSError as error:
                if error.errno != errno.ESRCH:
                    raise

    def _stopped(self, tid: int, status: int) -> None:
        event, number = status >> 16, os.WSTOPSIG(status)
        if event == ptrace.EVENT_SECCOMP:
            self._call(tid)
        elif status == _SYSCALL_STOP:
            self._returned(tid)
        elif event == ptrace.EVENT_STOP and number in _STOP_SIGNALS:
            ptrace.listen(tid)
        elif event == ptrace.EVENT_EXEC:
            self._forget(tid)
            ptrace.cont(tid)
        elif event:
            ptrace.cont(tid)
        else:
            ptrace.cont(tid, number)

    def _call(self, tid: int) -> None:
        accesses = self._accesses
        ptrace.get_registers(tid, accesses.executor.registers_at)
        before = bytes(accesses.registers)
        kept = closing.on_call(tid, accesses.registers, self._blocks)
        if bytes(accesses.registers) != before:
            ptrace.set_registers(tid, accesses.executor.registers_at)
        if kept is None:
            ptrace.cont(tid)
        else:
            self._returns[tid] = kept
            ptrace.cont_to_return(tid)

    def _returned(self, tid: int) -> None:
        kept = self._returns.pop(tid, None)
        if kept is not None:
            register, value = kept
            ptrace.get_registers(tid, self._accesses.executor.registers_at)
            self._accesses.registers[register] = value
            ptrace.set_registers(tid, self._accesses.executor.registers_at)
        ptrace.cont(tid)

    def _gone(self, tid: int, status: int) -> None:
        self._forget(tid)
        if tid == self._pid:
            self.status = status
            self.ended.set()

    # -- processes ----------------------------------------------------------------------------------------

    def _areas(self, tid: int) -> Areas:
        process = _process_of(tid)
        areas = self._of_process.get(process)
        if areas is None:
            areas = self._of_process[process] = Areas(process)
        self._processes[tid] = areas
        return areas

    def _forget(self, tid: int) -> None:
        """The thread has ended; if it has led a process, that has, or it is another program now."""
        self._returns.pop(tid, None)
        self._processes.pop(tid, None)
        areas = self._of_process.pop(tid, None)
        if areas is not None:
            areas.close()
            for other in [other for other, its in self._processes.items() if its is areas]:
                del self._processes[other]


def _process_of(tid: int) -> int:
    try:
        status = Path(f"/proc/{tid}/status").read_bytes()
    except FileNotFoundError:
        raise OSError(errno.ESRCH, os.strerror(errno.ESRCH)) from None
    return int(status.partition(b"\nTgid:")[2].split(maxsplit=1)[0])


def why_refused(pid: int, error: OSError) -> str:
    """What to tell a person when the program cannot be traced."""
    said = error.strerror or str(error)
    try:
        status = Path(f"/proc/{pid}/status").read_bytes()
        tracer = int(status.partition(b"\nTracerPid:")[2].split(maxsplit=1)[0])
    except (OSError, IndexError, ValueError):
        tracer = 0
    if tracer:
        return (
            f"accesses cannot be trapped: process {tracer} traces this already, and there can be one tracer only: "
            "run without strace -f or a debugger around it, or without trapping"
        )
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if scope.exists() and scope.read_text(encoding="ascii").strip() == "3":
        return (
            "accesses cannot be trapped: /proc/sys/kernel/yama/ptrace_scope is 3, which forbids ptrace until the "
            "machine boots anew (then: sysctl kernel.yama.ptrace_scope=1)"
        )
    return (
        f"accesses cannot be trapped: ptrace is refused ({said}): a container needs --cap-add SYS_PTRACE, or a seccomp "
        "profile that lets ptrace through; elsewhere sysctl kernel.yama.ptrace_scope=1 helps"
    )

"""A program that does with a device what a test tells it, in a process of its own: it may hang, be killed, or crash."""

import json
import queue
import signal
import subprocess
import threading
from pathlib import Path

from tests.people import Person

PROGRAM = """
import ctypes, errno, fcntl, json, os, select, signal, sys, threading, time

path = sys.argv[1]
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap64.restype = ctypes.c_void_p
libc.mmap64.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64
libc.msync.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
libc.munmap.argtypes = ctypes.c_void_p, ctypes.c_size_t
libc.pread64.argtypes = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
libc.pwrite64.argtypes = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int64
READ, WRITE, SHARED, PRIVATE = 1, 2, 1, 2

def checked(result):
    if result == -1 or result == 2**64 - 1:
        raise OSError(ctypes.get_errno(), "")
    return result

def mapped(fd, length=4096, offset=0, prot=READ | WRITE, flags=SHARED):
    return checked(libc.mmap64(None, length, prot, flags, fd, offset))

def msync(address, length=4096, flags=4):
    return checked(libc.msync(address, length, flags))

def munmap(address, length=4096):
    return checked(libc.munmap(address, length))

def load(address, count=4):
    return ctypes.string_at(address, count)

def store(address, data):
    ctypes.memmove(address, data, len(data))

def in_child(work):
    "What a forked child comes to that does it: its answer, or the signal that ends it."
    ours, its = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            answer = repr(work())
        except OSError as error:
            answer = errno.errorcode.get(error.errno, error.errno)
        os.write(its, answer.encode())
        os._exit(0)
    os.close(its)
    _, status = os.waitpid(pid, 0)
    with open(ours) as answer:
        return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else answer.read()

def polled(fd, events, timeout):
    "revents of poll(2)"
    poll = select.poll()
    poll.register(fd, events)
    return dict(poll.poll(timeout * 1000)).get(fd, 0)

for line in sys.stdin:
    code = json.loads(line)
    try:
        try:
            compiled = compile(code, "<test>", "eval")
        except SyntaxError:
            compiled = compile(code, "<test>", "exec")
        answer = repr(eval(compiled))
    except OSError as error:
        answer = errno.errorcode.get(error.errno, error.errno)
    except Exception as error:
        answer = repr(error)
    print(answer, flush=True)
"""


class Client:
    """Python that is evaluated over there: ``path`` is the file; see ``PROGRAM`` for what else it knows."""

    def __init__(self, person: Person, path: Path) -> None:
        self.process = person.popen(
            *person.python, "-I", "-S", "-c", PROGRAM, path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._answers: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._answers.put(line.rstrip("\n"))

    def send(self, code: str) -> None:
        """Have `code` evaluated or executed, without waiting for it."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(code) + "\n")
        self.process.stdin.flush()

    def answer(self, timeout: float = 20) -> str:
        """The ``repr`` of what came out of the earliest ``send``, or the name of the errno that it met."""
        try:
            return self._answers.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"no answer within {timeout} s; the client is {self.state()}") from None

    def ask(self, code: str, timeout: float = 20) -> str:
        """``send`` and ``answer``"""
        self.send(code)
        return self.answer(timeout)

    def has_answered(self) -> bool:
        return not self._answers.empty()

    def state(self) -> str:
        """Such as "S (sleeping)" or "D (disk sleep)"."""
        if self.process.poll() is not None:
            return f"gone ({self.process.returncode})"
        status = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(line.split(maxsplit=1)[1] for line in status if line.startswith("State:"))

    def kill(self, number: int = signal.SIGKILL, timeout: float = 10) -> int:
        """Send a signal that ends it, and wait for the end: what it ended with, as ``Popen.returncode``."""
        self.process.send_signal(number)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"lives {timeout} s after signal {number}: {self.state()}") from None
        self.close()
        return code

    def close(self) -> None:
        """Forget it; a process that does not end by itself or by SIGKILL is a failure."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self.process.wait(0.5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        self._reader.join(10)

"""``Device``: the operations that the author of a device may define.

They are those of the kernel's ``struct file_operations`` and ``struct vm_operations_struct`` (include/linux/fs.h,
include/linux/mm.h; Documentation/filesystems/vfs.rst), in Python types. The docstring of each is its contract.
"""

import re
import select
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias, TypeVar

from mapdev.file import File, Vma, VmFault
from mapdev.ioctl import IoctlArg
from mapdev.pages import BytesLike, Mappable
from mapdev.surroundings import Surroundings

if TYPE_CHECKING:
    from mapdev.faults import Faults

T = TypeVar("T")
Answer: TypeAlias = T | Awaitable[T]
"""Every operation may be a plain method or an ``async def`` one."""

DEFAULT_POLLMASK: Final = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM
"""What poll(2) says of a device that has no ``poll``: always ready (the kernel's name)."""


class Device:
    """A Linux device. Subclass it, define the operations it has, serve it.

    **Errors.** ``raise OSError(errno.X)`` gives the program that errno (1 to 511). Any other exception, and an answer
    of the wrong kind or size, gives it EIO (in ``fault``: SIGBUS) and writes one traceback to the log
    ``mapdev.device``.

    **Blocking.** Every operation may block; others are served meanwhile. Plain methods run in threads, several at
    once as in the kernel: state that two of them change needs a lock. ``async def`` methods all run in one event
    loop, so between two ``await`` nothing else of theirs runs. When the waiting program gets a signal, a coroutine is
    cancelled, ``File.wait_event`` raises EINTR, and ``signal_pending()`` is true; if the program is being killed, it
    gets away at once whatever the method does.

    **What is not defined** answers as the kernel does; each docstring says how.
    """

    name: ClassVar[str | None] = None
    """The file name it is served under if no other is given; default: the class's name in snake_case."""

    size: int | None = None
    """In bytes: the st_size that stat(2) shows before the first open (default: a page). Afterwards it is that of the
    memory that ``mmap`` answered; needed if ``fault`` is defined and ``mmap`` is not."""

    devt: tuple[int, int] | None = None
    """Major and minor number. With them `mapdev run` lets stat(2) show a character device."""

    readahead: int = 0
    """In bytes: how far beyond the touched page the kernel may ask ``fault`` for more in one go. 0: every fault
    is one page, and ``fault`` hears only of pages that are touched. The least of all devices of a mount counts."""

    injected: "Faults | None" = None
    """What goes wrong on purpose: see ``mapdev.faults``. Looked at when the device begins to be served."""

    def open(self, file: File) -> Answer[None]:
        """open(2) has come; put what this open needs into ``file.private_data``.

        Raise ``OSError`` to refuse. Not defined: succeeds. FUSE: a second open of the very same inode of a device
        with memory of its own for each open (through /proc/PID/fd/N) is answered as dup(2), without this call.
        """

    def release(self, file: File) -> Answer[None]:
        """The last descriptor and the last mapping of this open are gone. The client does not wait for it, and an
        exception reaches the log only. Not defined: nothing. FUSE with shared memory: mappings may live on, for the
        kernel ties them to the memory itself; so memory that was one open's own must not become another's."""

    def read(self, file: File, count: int, pos: int) -> Answer[BytesLike]:
        """read(2), pread(2), readv(2): up to `count` bytes from byte `pos` on; ``b""`` is the end of the file.

        The position advances by what is answered. More than `count` bytes are an error of the device (EIO).
        Not defined: EINVAL. FUSE: at most 1 MiB is asked for in one call; a larger read(2) is several calls.
        """
        raise NotImplementedError

    def write(self, file: File, buf: bytes, pos: int) -> Answer[int]:
        """write(2), pwrite(2), writev(2): answer how many of the bytes of `buf` were taken, 0 to ``len(buf)``.

        Not defined: EINVAL. FUSE: the kernel advances the position by the answer; at most 1 MiB comes in one call.
        """
        raise NotImplementedError

    def ioctl(self, file: File, cmd: int, arg: IoctlArg) -> Answer[int | BytesLike | None]:
        """ioctl(2): the answer is the call's result, 0 to 2^31 - 1; bytes are copied to where `arg` points (result 0),
        and None is 0. Raise ``OSError`` ENOTTY for a command that is not known.

        Not defined: ENOTTY. FUSE: FIONREAD, FIONBIO, FIGETBSZ and a few more are answered by the kernel itself.
        """
        raise NotImplementedError

    def poll(self, file: File) -> Answer[int]:
        """poll(2), select(2), epoll(7): what can be done now without blocking, a mask of ``select.POLL*``.

        Must not block; ``file.wake()`` later makes the waiting programs ask again. Not defined: ``DEFAULT_POLLMASK``.
        """
        raise NotImplementedError

    def mmap(self, file: File, vma: Vma) -> Answer[Mappable | None]:
        """mmap(2): the memory to map, the same for every call on one open. Raise ``OSError`` to refuse.

        None: pages come from ``fault`` (which must be defined), the same pages for all opens. Pages made in ``open``
        belong to that open alone; pages made earlier are shared by all opens.

        Not defined: pages come from ``fault`` if that is defined; else ENODEV. FUSE: called once for each open, right
        after ``open``, not at mmap(2), and munmap(2) is never told: ``release`` comes after both. A refusal, or no
        memory, shows to the program as ENODEV at mmap(2) in shared memory mode and as SIGBUS at access else.
        """
        raise NotImplementedError

    def fault(self, file: File, vmf: VmFault) -> Answer[BytesLike]:
        """A program touches page ``vmf.pgoff``, which is not there: hand over exactly ``PAGE_SIZE`` bytes.

        A writable buffer (``Pages.page(n)``, a bytearray) becomes the page itself, and stores of programs reach it;
        bytes are copied to a fresh page. The page stays until ``unmap_mapping_range``. Raise ``OSError`` (any): SIGBUS.
        Called only for offsets within the memory. FUSE: `file` is one of the opens of the mapped inode, the
        earliest; whether it was a load or a store is not told.
        """
        raise NotImplementedError

    def vm_fault(self, file: File, vmf: VmFault) -> Answer[None]:
        """A program touches page ``vmf.pgoff`` of the ``Pages`` that ``mmap`` answered, and its page table has not this
        page: the first time through an area, and again once the kernel or ``wp_shared_mapping_range`` took it away.

        When this returns the page is mapped, and none around it; a huge page is one page. Raise ``OSError`` (any):
        SIGBUS. Not defined: the kernel maps what is there by itself, many pages at once. read(2) and write(2) are no
        faults. Kernel host only, never called by FUSE.
        """
        raise NotImplementedError

    def page_mkwrite(self, file: File, vmf: VmFault) -> Answer[None]:
        """A program stores into page ``vmf.pgoff`` for the first time since it was handed over or write-protected; the
        store waits for this. Raise ``OSError`` (any): SIGBUS. Not defined: stores are not told.

        Kernel host only: FUSE has no such message, and never calls it.
        """
        raise NotImplementedError

    def vm_open(self, file: File, vma: Vma) -> Answer[None]:
        """There is one area more of this open: right after ``mmap`` has answered, and when one has been duplicated by
        fork(2), by a split (munmap(2) or mprotect(2) of a part), by mremap(2). An exception reaches the log only.

        Kernel host only: FUSE is not told of areas, and never calls it. Not defined: nothing.
        """

    def vm_close(self, file: File, vma: Vma) -> Answer[None]:
        """An area of this open is gone: munmap(2), or the end of the process; or what ``mmap`` had answered was
        not mapped after all. One for each ``vm_open``. Kernel host only, as ``vm_open``. Not defined: nothing."""

    def load(self, file: File, count: int, pos: int) -> Answer[BytesLike]:
        """A single instruction of a program loads `count` bytes at byte `pos` of its mapping: answer exactly so many.

        Only where every access is trapped (`mapdev run`; see ``traps``). The program waits, and so do its other threads
        that touch a device. Raise ``OSError`` (any): SIGBUS. Not defined: bytes of the memory that ``mmap`` answered.
        """
        raise NotImplementedError

    def store(self, file: File, data: bytes, pos: int) -> Answer[None]:
        """A single instruction of a program stores `data` at byte `pos` of its mapping. As ``load``; not defined: they
        go to the memory that ``mmap`` answered."""
        raise NotImplementedError

    def traps(self, pos: int, length: int) -> bool:
        """Whether each access to these `length` bytes at byte `pos` is to come to ``load`` and ``store``: asked at each
        mmap(2), where accesses can be trapped. Then the program never gets at the memory itself, and an access costs
        microseconds. Must not block. Not defined: if ``load`` or ``store`` is."""
        del pos, length
        return self.defines("load") or self.defines("store")

    def fsync(self, file: File, datasync: bool) -> Answer[None]:
        """fsync(2), fdatasync(2) (`datasync` true), and msync(2) with MS_SYNC where the kernel keeps a page cache; what
        was stored through mappings has arrived. Not defined: succeeds, as on tmpfs."""

    def surroundings(self, path: str) -> Surroundings:
        """What programs look up beside the device that is at `path` (such as "/dev/uio0"): see ``mapdev.surroundings``.

        Shown by `mapdev run`. Not defined: nothing.
        """
        del path
        return {}

    def wake(self) -> None:
        """``File.wake`` for every open file of this device. From any thread; does not block."""
        for file in tuple(self._files):
            file.wake()

    def dev_info(self, message: str | Callable[[], str]) -> None:
        """A line to the trace, as drivers log with the kernel's function of this name; without a trace, nothing.

        A function is called only if there is a trace: for a line that costs something to make.
        """
        if self._log is not None:
            self._log(message if isinstance(message, str) else message())

    @classmethod
    def with_parameter(cls, text: str) -> "Device":
        """The device for the TARGET ``name:TEXT`` of the command line. Raise ``ValueError`` with one line if it
        does not fit. Not defined: a device takes no parameter."""
        raise ValueError(f"{cls.node_name()} takes no parameter, so {text!r} cannot be one")

    @classmethod
    def node_name(cls) -> str:
        """The file name it is served under by default."""
        return cls.name or re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", cls.__name__).lower()

    # a host sets both while it serves the device; authors need not call super().__init__()
    _files: Iterable[File] = ()
    _log: Callable[[str], None] | None = None

    @classmethod
    def defines(cls, operation: str) -> bool:
        """Whether the author defined this operation."""
        return getattr(cls, operation) is not getattr(Device, operation)

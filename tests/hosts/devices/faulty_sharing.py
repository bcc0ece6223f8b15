"""Devices that do not tell whether opens share their memory; and one that tells what its host holds."""

import gc
import json
import threading

from mapdev import Device, File, Pages, Vma, zeroed_pages
from mapdev.dispatch import Dispatch
from mapdev.hosts.fuse.channel import Channel


class AtInit(Device):
    """One page for all opens, made before any."""

    def __init__(self) -> None:
        self.pages = zeroed_pages(1)

    def mmap(self, file: File, vma: Vma) -> Pages:  # noqa: ARG002
        return self.pages


class Lazily(Device):
    """One page for all opens, made in the first of them."""

    def __init__(self) -> None:
        self.pages: Pages | None = None
        self.lock = threading.Lock()

    def open(self, file: File) -> None:  # noqa: ARG002
        with self.lock:
            if self.pages is None:
                self.pages = zeroed_pages(1)

    def mmap(self, file: File, vma: Vma) -> Pages | None:  # noqa: ARG002
        return self.pages


class WhileOpen(Device):
    """One page for all who have it open at the same time; a new one after the last has gone."""

    def __init__(self) -> None:
        self.pages: Pages | None = None
        self.opens = 0
        self.lock = threading.Lock()

    def open(self, file: File) -> None:  # noqa: ARG002
        with self.lock:
            self.opens += 1
            if self.pages is None:
                self.pages = zeroed_pages(1)

    def release(self, file: File) -> None:  # noqa: ARG002
        with self.lock:
            self.opens -= 1
            if not self.opens:
                self.pages = None

    def mmap(self, file: File, vma: Vma) -> Pages | None:  # noqa: ARG002
        return self.pages


class Census(Device):
    """``read``: what there is in the host, as JSON; the open that asks is not counted."""

    def open(self, file: File) -> None:
        gc.collect()
        everything = gc.get_objects()
        (channel,) = [each for each in everything if isinstance(each, Channel)]
        nodes = channel._session.nodes
        file.private_data = json.dumps({
            "files": len(nodes.files),
            "device files": sum(len(each.files) for each in everything if isinstance(each, Dispatch)),
            "nodes": len(nodes._nodes),
            "requests": len(channel._requests) - 1,
            "pages": sum(isinstance(each, Pages) for each in everything),
        }).encode()  # fmt: skip

    def read(self, file: File, count: int, pos: int) -> bytes:
        found: bytes = file.private_data
        return found[pos : pos + count]

"""The UART by itself; the driver with it, and with what is at the other end."""

import socket
import subprocess
import threading
from pathlib import Path

import pytest
from uart import Echo, Uart

from mapdev.pytest_plugin import MapdevRun
from mapdev.testing import MemoryHost

HERE = Path(__file__).parent
IER, IIR, FCR, LSR = 1, 2, 2, 5


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, compiled."""
    program = tmp_path_factory.mktemp("uart") / "driver"
    command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(program), str(HERE / "driver.c")]
    subprocess.run(command, timeout=60, check=True)
    return program


def test_interrupts_come_by_their_priority_and_go_as_the_data_sheet_says() -> None:
    sent = bytearray()
    uart = Uart(sent.extend)
    with MemoryHost(uart) as host, host.open() as file:
        area = file.mmap(4096)
        area[FCR : FCR + 1] = b"\x41"  # FIFO, trigger at 4
        area[IER : IER + 1] = b"\x07"
        assert area[IIR : IIR + 1] == b"\xc2"  # the transmitter is empty, and this was told by reading
        assert area[IIR : IIR + 1] == b"\xc1"
        uart.receive(b"abc")
        assert area[IIR : IIR + 1] == b"\xc1"
        uart.receive(b"d")
        assert area[IIR : IIR + 1] == b"\xc4"
        uart.receive(b"e" * 20)
        assert area[IIR : IIR + 1] == b"\xc6"
        assert [area[LSR : LSR + 1] for _ in range(2)] == [b"\x63", b"\x61"]
        assert area[IIR : IIR + 1] == b"\xc4"
        assert b"".join(area[0:1] for _ in range(16)) == b"abcd" + b"e" * 12
        area[0:1] = b"x"
        assert sent == b"x"
        assert file.poll() != 0


def test_the_driver_finds_the_uart_and_talks_to_the_other_end(driver: Path, mapdev_run: MapdevRun) -> None:
    done = mapdev_run([driver, "/dev/uio0", "hello, world"], {"/dev/uio0": Echo()}, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "HELLO, WORLD\n", "")


def test_the_other_end_is_a_socket(driver: Path, mapdev_run: MapdevRun) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        uart = Uart(ours.sendall)

        def line() -> None:
            while data := ours.recv(64):
                uart.receive(data)

        def peer() -> None:
            while data := theirs.recv(64):
                theirs.sendall(data.swapcase())

        threads = [threading.Thread(target=each, daemon=True) for each in (line, peer)]
        for thread in threads:
            thread.start()
        done = mapdev_run([driver, "/dev/uio0", "Ping"], {"/dev/uio0": uart}, timeout=60)
        for end in (ours, theirs):
            end.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "pING\n", "")

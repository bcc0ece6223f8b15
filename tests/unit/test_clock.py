"""Clocks: alarms in their order, cancelled and periodic ones, real time and that of a test."""

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapdev.clock import Clock, ManualClock


def test_time_stands_still_until_it_is_advanced() -> None:
    clock, seen = ManualClock(), []
    clock.after(0.5, lambda: seen.append(clock.now_ns))
    assert (clock.now_ns, seen) == (0, [])
    clock.advance(0.499_999_999)
    assert seen == []
    clock.advance(0.000_000_001)
    assert seen == [500_000_000]
    clock.advance(10)
    assert (clock.now_ns, len(seen)) == (10_500_000_000, 1)


def test_a_million_microseconds_are_a_second() -> None:
    clock = ManualClock()
    for _ in range(1000):
        clock.advance(0.001)
    assert clock.ticks(1) == 1
    assert clock.ticks(32_768) == 32_768
    clock.advance(0.000_999)
    assert clock.ticks(1000) == 1000


@given(st.lists(st.tuples(st.integers(0, 50), st.booleans()), max_size=20), st.lists(st.integers(0, 20), max_size=8))
def test_alarms_run_in_the_order_of_time_and_then_of_making(alarms: list[tuple[int, bool]], steps: list[int]) -> None:
    clock, seen = ManualClock(), []

    def note(number: int) -> Callable[[], None]:
        return lambda: seen.append((clock.now_ns // 1_000_000_000, number))

    made = [clock.after(delay, note(number)) for number, (delay, _) in enumerate(alarms)]
    for alarm, (_, cancelled) in zip(made, alarms, strict=True):
        if cancelled:
            alarm.cancel()
    for step in steps:
        clock.advance(step)
    kept = [(delay, number) for number, (delay, cancelled) in enumerate(alarms) if not cancelled]
    assert seen == sorted(each for each in kept if steps and each[0] <= sum(steps))
    assert [alarm.pending for alarm in made] == [
        not cancelled and not (steps and delay <= sum(steps)) for delay, cancelled in alarms
    ]


def test_a_periodic_alarm_goes_on_until_it_cancels_itself() -> None:
    clock, seen = ManualClock(), []

    def tick() -> None:
        seen.append(clock.now_ns)
        if len(seen) == 3:
            alarm.cancel()

    alarm = clock.every(0.1, tick)
    clock.advance(1)
    assert seen == [100_000_000, 200_000_000, 300_000_000]
    assert not alarm.pending


def test_what_a_callback_asks_for_is_done_in_the_same_advance() -> None:
    clock, seen = ManualClock(), []
    clock.after(1, lambda: clock.after(1, lambda: seen.append(clock.now_ns)))
    clock.advance(5)
    assert seen == [2_000_000_000]


def test_alarms_that_were_cancelled_are_forgotten() -> None:
    clock, seen = ManualClock(), []
    clock.after(50, lambda: seen.append(1))
    for _ in range(5000):
        clock.after(100, print).cancel()
    assert len(clock._alarms) < 200
    clock.advance(100)
    assert seen == [1]


def test_a_callback_that_raises_is_logged_and_the_others_run(caplog: pytest.LogCaptureFixture) -> None:
    clock, seen = ManualClock(), []
    clock.after(1, lambda: 1 // 0)
    clock.after(2, lambda: seen.append(1))
    with caplog.at_level(logging.ERROR):
        clock.advance(3)
    assert seen == [1]
    assert "ZeroDivisionError" in caplog.text


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda clock: clock.after(-1, print), "not in the future"),
        (lambda clock: clock.after(float("nan"), print), "not in the future"),
        (lambda clock: clock.every(0, print), "is none"),
        (lambda clock: clock.advance(-1), "does not go back"),
    ],
)
def test_times_that_cannot_be_are_refused(call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(ManualClock())


def test_real_time_runs_alarms_in_one_thread_that_ends_with_the_last() -> None:
    clock, threads, done = Clock(), [], threading.Event()

    def last() -> None:
        threads.append(threading.current_thread())
        done.set()

    late = clock.after(3600, lambda: threads.append(threading.current_thread()))
    clock.after(0.02, last)
    clock.after(0, lambda: threads.append(threading.current_thread()))
    assert done.wait(60)
    assert len(threads) == 2
    assert threads[0] is threads[1] is not threading.current_thread()
    assert clock.now_ns >= 20_000_000
    late.cancel()
    threads[0].join(60)
    assert not threads[0].is_alive()
    done.clear()
    clock.after(0, done.set)
    assert done.wait(60)


def test_a_cancelled_alarm_does_not_run_even_if_it_was_waiting_for_the_lock() -> None:
    clock, seen, done = Clock(), [], threading.Event()
    with clock.lock:
        alarm = clock.every(0.001, lambda: seen.append(1))
        clock.after(0.002, done.set)
        assert not done.wait(0.05)  # the thread waits for the lock
        alarm.cancel()
    assert done.wait(60)
    assert seen == []

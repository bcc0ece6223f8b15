"""Time for devices that tick: ``Clock`` is real time, ``ManualClock`` what a test makes of it.

    class Timer(Uio):
        regs = place(0x101E_2000, TimerRegisters)

        def __init__(self, clock: Clock | None = None) -> None:
            super().__init__()
            self.clock = clock or Clock()
            self.clock.lock = self.lock         # an alarm and an access of a program take turns

    alarm = self.clock.after(0.001, self.expire)
    alarm.cancel()

A counter that runs freely needs no alarm: compute it when it is read, from ``clock.ticks(hz)``.

Delays and periods are in seconds, rounded to nanoseconds; the time itself is a whole number of nanoseconds, so that a
million steps of a microsecond are a second.
"""

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

_SECOND = 1_000_000_000

log = logging.getLogger("mapdev.device")


class Alarm:
    """Something that a ``Clock`` will do. ``due_ns``: when, in its nanoseconds; ``pending``: whether it still will."""

    def __init__(self, clock: "Clock", due_ns: int, period_ns: int, callback: Callable[[], object]) -> None:
        self.due_ns = due_ns
        self.pending = True
        self._clock = clock
        self._period_ns = period_ns
        self._callback = callback

    def cancel(self) -> None:
        """It will not be done: when this returns its callback does not run, nor begin to (if it does not itself call
        this). Idempotent. Waits for the clock's ``lock``."""
        with self._clock.lock:
            self.pending = False
            self._clock._cancelled()

    def run(self) -> bool:
        """For the clock. Whether it will be done again; an exception goes to the log."""
        if self._period_ns:
            self.due_ns += self._period_ns
        else:
            self.pending = False
        try:
            self._callback()
        except Exception:
            log.exception("an alarm of a clock failed")
        return self.pending


class Clock:
    """Real time since it was made; alarms run in one thread, which there is only while there are alarms.

    ``lock`` is held while an alarm runs: set it to the lock of a device before the first alarm. What an alarm raises
    goes to the log ``mapdev.device``, and the clock goes on.
    """

    lock: AbstractContextManager[Any]

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._began = time.monotonic_ns()
        self._alarms: list[tuple[int, int, Alarm]] = []
        self._order = itertools.count()
        self._most = 64
        """With more alarms than that, cancelled ones are looked for."""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    @property
    def now_ns(self) -> int:
        """The time, in nanoseconds; it begins with 0."""
        return time.monotonic_ns() - self._began

    def ticks(self, hz: int) -> int:
        """How many periods of `hz` per second are over: what a counter of that frequency has counted."""
        return self.now_ns * hz // _SECOND

    def after(self, delay: float, callback: Callable[[], object]) -> Alarm:
        """Call `callback` in `delay` seconds, once. Raises ``ValueError`` below 0. Does not block."""
        if not delay >= 0:
            raise ValueError(f"{delay} s from now is not in the future")
        return self._add(Alarm(self, self.now_ns + round(delay * _SECOND), 0, callback))

    def every(self, period: float, callback: Callable[[], object]) -> Alarm:
        """Call `callback` each `period` seconds, for the first time in one period, until it is cancelled.

        None is left out: if one comes late, the next follows the sooner. Raises ``ValueError`` below a nanosecond.
        """
        period_ns = round(period * _SECOND)
        if period_ns < 1:
            raise ValueError(f"a period of {period} s is none")
        return self._add(Alarm(self, self.now_ns + period_ns, period_ns, callback))

    def _push(self, alarm: Alarm) -> None:
        heapq.heappush(self._alarms, (alarm.due_ns, next(self._order), alarm))
        if len(self._alarms) > self._most:
            self._alarms = [entry for entry in self._alarms if entry[2].pending]
            heapq.heapify(self._alarms)
            self._most = 2 * len(self._alarms) + 64

    def _cancelled(self) -> None:
        with self._changed:
            self._changed.notify()

    def _add(self, alarm: Alarm) -> Alarm:
        with self._changed:
            self._push(alarm)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="mapdev-clock", daemon=True)
                self._thread.start()
            self._changed.notify()
        return alarm

    def _run(self) -> None:
        while True:
            with self._changed:
                while self._alarms and not self._alarms[0][2].pending:
                    heapq.heappop(self._alarms)
                if not self._alarms:
                    self._thread = None
                    return
                left = self._alarms[0][0] - self.now_ns
                if left > 0:
                    self._changed.wait(min(left / _SECOND, 3600))
                    continue
            self._run_due(self.now_ns)

    def _run_due(self, now_ns: int) -> bool:
        """Run the first alarm, if it is due by `now_ns`."""
        with self.lock:
            with self._changed:
                if not self._alarms or self._alarms[0][0] > now_ns:
                    return False
                _, _, alarm = heapq.heappop(self._alarms)
            if alarm.pending and alarm.run():
                self._add(alarm)
        return True


class ManualClock(Clock):
    """A clock that stands still but for ``advance``: for tests, which are then the same each time."""

    def __init__(self) -> None:
        super().__init__()
        self._now_ns = 0

    @property
    def now_ns(self) -> int:
        """The time, in nanoseconds; it begins with 0. While an alarm runs it is the time at which that was due."""
        return self._now_ns

    def advance(self, seconds: float) -> None:
        """Let `seconds` go by. What becomes due meanwhile is run here and now, in the order of time, and of making
        where that is the same; also what is only asked for by these callbacks."""
        end = self._now_ns + round(seconds * _SECOND)
        if end < self._now_ns:
            raise ValueError(f"time does not go back by {-seconds} s")
        while self._alarms and self._alarms[0][0] <= end:
            self._now_ns = max(self._now_ns, self._alarms[0][0])
            self._run_due(end)
        self._now_ns = end

    def _add(self, alarm: Alarm) -> Alarm:
        self._push(alarm)
        return alarm

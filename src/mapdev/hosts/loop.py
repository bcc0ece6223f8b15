"""The event loop in which ``async def`` operations go on.

Imported by a host when the first coroutine comes: most devices have none, and asyncio takes its time to load.
"""

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Final, Protocol, TypeVar

T = TypeVar("T")

log = logging.getLogger("mapdev.loop")

_CLOSE_TIMEOUT: Final = 2.0


class Cancellable(Protocol):
    """A call whose rest runs here: a signal to its caller cancels the task."""

    interrupted: bool
    task: "asyncio.Task[None] | None"


class EventLoop:
    """One loop in a thread of its own, and a thread beside it for pushes, which must not block it."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._pusher = concurrent.futures.ThreadPoolExecutor(1, "mapdev-push")
        self._pushes: set[concurrent.futures.Future[None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="mapdev-async", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()
        self._loop.close()

    def is_current(self) -> bool:
        return threading.current_thread() is self._thread

    def run(self, work: Coroutine[Any, Any, None], call: Cancellable | None) -> None:
        """Go on with `work` as a task; a signal that came already cancels it."""

        def begin() -> None:
            task = self._loop.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            if call is not None:
                call.task = task
                if call.interrupted:
                    task.cancel()

        self._loop.call_soon_threadsafe(begin)

    def result_of(self, work: Coroutine[Any, Any, T]) -> T:
        """Run the rest of `work`, and wait for its end."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def cancel(self, call: Cancellable) -> None:
        """Cancel the operation of this call."""
        if call.task is not None:
            self._loop.call_soon_threadsafe(call.task.cancel)

    def push(self, work: Callable[[], None]) -> None:
        """From the loop: `work` is done soon, in order."""
        future = self._pusher.submit(work)
        self._pushes.add(future)
        future.add_done_callback(self._pushes.discard)

    async def pushed(self) -> None:
        """All pushes so far are done."""
        for future in tuple(self._pushes):
            await asyncio.wrap_future(future)

    def cancel_all(self) -> bool:
        """Cancel what still runs and wait for it to end; False if some does not."""

        async def cancel() -> None:
            tasks = tuple(self._tasks)
            for task in tasks:
                task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=_CLOSE_TIMEOUT)

        try:
            asyncio.run_coroutine_threadsafe(cancel(), self._loop).result(2 * _CLOSE_TIMEOUT)
        except TimeoutError:
            log.error("an `async def` operation blocks the event loop without await; it is left behind")
            return False
        if self._tasks:
            log.error("%d `async def` operations go on after they were cancelled; left behind", len(self._tasks))
        return not self._tasks

    def close(self) -> None:
        """End both threads."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._pusher.shutdown(wait=False)
        self._thread.join(1)

"""What an operation answers: its value, or the coroutine that will come to one.

Operations may be plain or ``async def``, and which shows only when one is called. A plain one has its value when it
returns, and nothing more is done about it: no coroutine is made on its way through the files of a host. That of an
``async def`` one is handed up until somebody has an event loop to go on with it.

A coroutine need not be one that waits: a host's own function may be ``async def`` for being easier to read so.
``start`` runs such a one to its end at once.
"""

import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from typing_extensions import TypeIs

S = TypeVar("S")
T = TypeVar("T")

Answer: TypeAlias = T | Coroutine[Any, Any, T]


def is_coming(answer: Answer[T]) -> "TypeIs[Coroutine[Any, Any, T]]":
    """It is not there yet: a coroutine has to be awaited for it."""
    return isinstance(answer, CoroutineType)


def then(answer: Answer[S], work: Callable[[S], Answer[T]]) -> Answer[T]:
    """What `work` answers when it gets the value, now or when that has come."""
    if is_coming(answer):
        return _then(answer, work)
    return work(answer)


async def _then(answer: Coroutine[Any, Any, S], work: Callable[[S], Answer[T]]) -> T:
    result = work(await answer)
    return await result if is_coming(result) else result


def or_none(ask: Callable[[], Answer[T]]) -> Answer[T | None]:
    """What `ask` answers, or None if it raises ``OSError``."""
    try:
        answer = ask()
    except OSError:
        return None
    return _or_none(answer) if is_coming(answer) else answer


async def _or_none(answer: Coroutine[Any, Any, T]) -> T | None:
    try:
        return await answer
    except OSError:
        return None


def in_turn(answers: Iterator[Answer[T]]) -> Answer[list[T]]:
    """The values of all; the next is asked for when the one before has come."""
    values: list[T] = []
    for answer in answers:
        if is_coming(answer):
            return _in_turn(values, answer, answers)
        values.append(answer)
    return values


async def _in_turn(values: list[T], answer: Coroutine[Any, Any, T], rest: Iterator[Answer[T]]) -> list[T]:
    values.append(await answer)
    values.extend([await other if is_coming(other) else other for other in rest])
    return values


@types.coroutine
def _to_the_loop() -> Generator[None, None, None]:
    """Suspend once, for ``start`` to see that this one needs an event loop."""
    yield


async def finish(answer: Coroutine[Any, Any, T]) -> T:
    """The value of an ``async def`` operation, of which nothing runs outside of the event loop."""
    try:
        await _to_the_loop()
    except BaseException:  # cancelled before it began
        answer.close()
        raise
    return await answer


def start(work: Coroutine[Any, Any, None], loop: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    """Run `work` here as far as it goes without waiting; hand what is left to `loop` (which runs it as a task)."""
    try:
        work.send(None)
    except StopIteration:
        return
    loop(work)

"""Work beside the reading thread, with results in the order of the work.

OrderedWorkers gives several threads their turns, live and recorded; map_ordered() is a loop's step on several
threads; Prefetcher is a loop's step one thread ahead of the loop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Generic, TypeVar

from streamseg.runtime.mailbox import Closed, Mailbox
from streamseg.runtime.stage import Stage

T = TypeVar("T")
U = TypeVar("U")


class OrderedWorkers:
    """Several workers take work one after the other, do it at once, and hand over one after the other.

    A worker that failed never hands over: the supervisor then calls close(), so that no other waits for it.
    """

    def __init__(self) -> None:
        # Guards that tickets are in the order of the work; held while waiting for work.
        self._taking = threading.Lock()
        self._given = 0  # tickets; guarded by _taking
        self._left = threading.Condition()  # guards the two below
        self._turn = 0  # the ticket that may hand over
        self._closed = False

    def take(self, take: Callable[[], T]) -> tuple[int, T]:
        """A ticket, and what take() returns, which may wait; no other worker takes meanwhile.

        Where take() raises Closed, the work is at its end: so does this, once all earlier tickets have left.
        """
        with self._taking:
            try:
                taken = take()
            except Closed:
                self._wait(self._given)
                raise
            ticket, self._given = self._given, self._given + 1
        return ticket, taken

    @contextmanager
    def leaving(self, ticket: int) -> Iterator[None]:
        """Wait for this ticket's turn, which ends with the block, unless that raises. Raises Closed."""
        self._wait(ticket)
        yield
        with self._left:
            self._turn = ticket + 1
            self._left.notify_all()

    def close(self) -> None:
        """Wake all that wait; no ticket leaves any more. Closing twice is fine."""
        with self._left:
            self._closed = True
            self._left.notify_all()

    def _wait(self, ticket: int) -> None:
        with self._left:
            self._left.wait_for(lambda: self._closed or self._turn == ticket)
            if self._closed:
                raise Closed


class _Failure:
    """An error in the place of a result."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def map_ordered(name: str, items: Iterator[T], works: Sequence[Callable[[T], U]]) -> Generator[U, None, None]:
    """Yield work(item) for each item, in order; each of `works` is called in a thread of its own.

    The next item goes to the first free thread, which also pulls it from `items`; at most two results for
    each thread wait. An error, of `items` or of a work, is raised when its turn comes. Closing the generator
    ends the threads, and waits for the items and works they are at.
    """
    workers = OrderedWorkers()
    results: Mailbox[U | _Failure] = Mailbox(2 * len(works))

    def pull() -> T | _Failure:
        try:
            return next(items)
        except StopIteration:
            raise Closed from None
        except Exception as error:  # noqa: BLE001 - raised in the reader
            return _Failure(error)

    def run(work: Callable[[T], U]) -> None:
        while True:
            ticket, item = workers.take(pull)
            result: U | _Failure
            try:
                result = item if isinstance(item, _Failure) else work(item)
            except Exception as error:  # noqa: BLE001 - raised in the reader
                result = _Failure(error)
            with workers.leaving(ticket):
                results.put(result)

    # The first thread that ends has found no item left, and all results are in the mailbox.
    stages = [
        Stage(f"{name}-{i}", partial(run, work), lambda _: results.close()) for i, work in enumerate(works)
    ]
    for stage in stages:
        stage.start()
    try:
        for result in results:
            if isinstance(result, _Failure):
                raise result.error
            yield result
    finally:
        results.close(discard=True)
        workers.close()
        for stage in stages:
            stage.join()


class Prefetcher(Generic[T]):
    """Iterates over `items` in a thread, at most `capacity` ahead of its reader.

    Order is kept and nothing is lost, so a loop gives the same with and without it. The thread owns `items`:
    a generator opens and closes there what it holds. An error in it is raised in the reader, after the items
    that came before it. Closing stops the thread and waits for it; closing twice is fine.
    """

    def __init__(self, name: str, items: Iterator[T], capacity: int = 4) -> None:
        self._items = items
        self._box: Mailbox[T] = Mailbox(capacity)
        self._stage = Stage(name, self._work, lambda _: self._box.close())
        self._stage.start()

    def __iter__(self) -> Iterator[T]:
        yield from self._box
        self._stage.join()
        if self._stage.error is not None:
            raise self._stage.error

    def close(self) -> None:
        self._box.close(discard=True)
        self._stage.join()

    def _work(self) -> None:
        try:
            for item in self._items:
                self._box.put(item)
        finally:
            close = getattr(self._items, "close", None)
            if close is not None:
                close()

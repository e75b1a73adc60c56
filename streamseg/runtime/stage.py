"""A thread of the route that never dies unheard."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from streamseg.runtime.mailbox import Closed

log = logging.getLogger(__name__)

Ended = Callable[["Stage"], None]


class Stage(threading.Thread):
    """Runs one blocking function in a named thread; tells `ended` when it is over, with the error if any.

    Closed is how a stage is told to stop, so it is no error.
    """

    def __init__(self, name: str, work: Callable[[], None], ended: Ended) -> None:
        super().__init__(name=name, daemon=True)
        self.error: BaseException | None = None
        self._work = work
        self._ended = ended

    def run(self) -> None:
        try:
            self._work()
        except Closed:
            pass
        except BaseException as error:  # handed to the supervisor, which decides
            self.error = error
            log.debug("%s: failed", self.name, exc_info=error)
        finally:
            self._ended(self)

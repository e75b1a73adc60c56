"""A named thread that reports its error when it ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from streamseg.runtime.mailbox import Closed

log = logging.getLogger(__name__)


class Stage(threading.Thread):
    """Runs one blocking function in a named thread, and calls on_end, in that thread, when it is over.

    `error` is then what the function raised, or None. Closed is how a stage is asked to stop, so it is no
    error.
    """

    def __init__(self, name: str, work: Callable[[], None], on_end: Callable[[Stage], None]) -> None:
        super().__init__(name=name, daemon=True)
        self.error: BaseException | None = None
        self._work = work
        self._on_end = on_end

    def run(self) -> None:
        try:
            self._work()
        except Closed:
            pass
        except BaseException as error:  # handed to the supervisor, which decides
            self.error = error
            log.debug("%s: failed", self.name, exc_info=error)
        finally:
            self._on_end(self)

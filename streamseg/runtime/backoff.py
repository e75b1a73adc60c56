"""The pause before the next try, for everything that is tried again."""

from __future__ import annotations

import random


class Backoff:
    """Full jitter: each pause is random between 0 and a ceiling that doubles from FIRST_S to MOST_S.

    Random from the bottom, so that a hundred streams of one switch do not come back in step.
    """

    FIRST_S, MOST_S = 0.5, 30.0

    def __init__(self) -> None:
        self.ceiling_s = self.FIRST_S

    def pause_s(self) -> float:
        """The next pause; the ceiling of the one after it is twice as high."""
        pause_s = random.uniform(0.0, self.ceiling_s)
        self.ceiling_s = min(self.MOST_S, 2 * self.ceiling_s)
        return pause_s

    def reset(self) -> None:
        """Begin with short pauses again, after a success."""
        self.ceiling_s = self.FIRST_S

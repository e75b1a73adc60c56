"""Pauses between tries."""

from __future__ import annotations

from streamseg.runtime.backoff import Backoff


def test_pauses_are_random_below_a_ceiling_that_doubles_from_half_a_second_to_thirty() -> None:
    backoff = Backoff()
    ceilings = []
    for _ in range(9):
        ceilings.append(backoff.ceiling_s)
        assert 0 <= backoff.pause_s() <= ceilings[-1]
    assert ceilings == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    many = [backoff.pause_s() for _ in range(500)]
    assert min(many) < 3 < 27 < max(many)
    backoff.reset()
    assert backoff.ceiling_s == 0.5

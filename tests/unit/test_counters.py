"""The log's lines about streams: what is news, and what is said now and then."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from streamseg.runtime.counters import SUMMARY_EVERY_S, Report, Stats, StreamStats


class Route:
    """A stream whose counters move as if time passed, and what is logged of it each ten seconds."""

    def __init__(self) -> None:
        self.stats = Stats()
        self.gate: StreamStats = self.stats.begin("gate")
        self.now_s = 0.0
        self.report = Report(self.stats, 0.0)

    def run(self, seconds: float, rate: int, *, infer_ms: int = 20, **drops: int) -> list[tuple[bool, str]]:
        """Publish `rate` masks a second, and drop so many a second; what is logged."""
        return list(self._run(seconds, rate, infer_ms, drops))

    def _run(
        self, seconds: float, rate: int, infer_ms: int, drops: dict[str, int]
    ) -> Iterator[tuple[bool, str]]:
        for _ in range(round(seconds / 10)):
            self.now_s += 10.0
            self.gate.published += 10 * rate
            self.gate.decoded += 10 * (rate + sum(drops.values()))
            for _ in range(200):
                self.gate.record({"infer": 1000 * infer_ms})
            for cause, count in drops.items():
                self.gate.drops[cause.replace("_", " ")] += 10 * count
            yield from self.report.lines(self.now_s)


@pytest.fixture
def route() -> Route:
    return Route()


def test_a_stream_that_goes_on_as_before_has_one_line_in_ten_minutes(route: Route) -> None:
    assert route.run(10, 25) == [(False, "gate: 25.0 masks/s (infer 20.0 ms)")]
    assert route.run(SUMMARY_EVERY_S - 10, 25) == []
    assert route.run(30, 25) == [(False, "gate: 25.0 masks/s (infer 20.0 ms)")]


@pytest.mark.parametrize(("rate", "lines"), [(24, 0), (21, 0), (19, 1), (32, 1), (0, 0)])
def test_a_rate_is_news_when_it_changed_by_more_than_a_fifth(route: Route, rate: int, lines: int) -> None:
    route.run(10, 25)
    assert len(route.run(60, rate)) == lines  # without any mask the stream's source has said why


def test_losses_are_told_when_they_begin_grow_and_end(route: Route) -> None:
    route.run(10, 25)
    (line,) = route.run(60, 20, slow_engine=5)
    assert line == (True, "gate: 20.0 masks/s of 250 frames in 10 s; 50 slow engine (infer 20.0 ms)")
    (line,) = route.run(60, 20, slow_engine=10)
    assert "100 slow engine" in line[1]
    (line,) = route.run(60, 20, slow_engine=10, corrupt=1)
    assert "10 corrupt, 100 slow engine" in line[1]
    assert route.run(60, 20) == [(False, "gate: 20.0 masks/s (infer 20.0 ms)")]


def test_frames_skipped_for_max_fps_are_no_loss(route: Route) -> None:
    route.run(10, 8)
    assert route.run(60, 8, skipped=17, disconnected=1) == []


def test_a_stage_that_became_slower_is_told(route: Route) -> None:
    route.run(10, 10)
    assert route.run(20, 10, infer_ms=24) == []
    assert route.run(20, 10, infer_ms=60) == [(False, "gate: 10.0 masks/s (infer 60.0 ms)")]


def test_a_summary_and_the_last_line_count_all_since_the_line_before(route: Route) -> None:
    route.run(10, 20, slow_engine=5)
    assert route.run(100, 20, slow_engine=5) == []
    route.gate.published += 10
    route.now_s += 1.0
    ((warning, line),) = route.report.lines(route.now_s, final=True)
    assert warning
    assert line == "gate: 19.9 masks/s of 2500 frames in 101 s; 500 slow engine (infer 20.0 ms)"
    assert route.report.lines(route.now_s + 1.0, final=True) == []


def test_the_share_of_unchanged_frames_is_told(route: Route) -> None:
    route.gate.unchanged += 225
    assert route.run(10, 25) == [(False, "gate: 25.0 masks/s, 90% unchanged (infer 20.0 ms)")]
    for i in range(8):
        route.gate.record({"gate": 100} if i % 2 else {"infer": 20_000})
    assert 0 < route.gate.unchanged_share() < 0.1

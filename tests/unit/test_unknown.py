"""Names of streams that a daemon does not have."""

from __future__ import annotations

from streamseg.client.unknown import UnknownStreams


def _after(wanted: list[str], *states: str) -> UnknownStreams:
    unknown = UnknownStreams(wanted)
    for stream in states:
        unknown.note(stream)
    return unknown


def test_nothing_is_looked_for_where_no_stream_is_named() -> None:
    assert UnknownStreams([]).settled


def test_a_name_that_does_not_come_in_two_rounds_is_unknown() -> None:
    unknown = _after(["vdeo"], "video", "gate", "video", "gate")
    assert not unknown.settled
    unknown.note("video")
    assert unknown.settled
    assert unknown.text == "no stream 'vdeo'; this service has gate, video"


def test_only_the_missing_ones_are_named() -> None:
    unknown = _after(["gate", "yrd", "hal"], *["gate", "hall"] * 3)
    assert unknown.text == "no stream 'yrd' and 'hal'; this service has gate, hall"


def test_names_that_are_all_known_are_settled_at_once() -> None:
    unknown = _after(["gate", "yard"], "yard", "gate")
    assert unknown.settled
    assert unknown.text == ""

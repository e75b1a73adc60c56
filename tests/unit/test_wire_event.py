"""Events to message parts and back, and what is refused."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from streamseg.errors import WireError
from streamseg.wire import (
    MAX_EVENT,
    EventDocument,
    KeptEvent,
    encode_event,
    kept_events,
    parse_event,
    replied_events,
)
from tests.masks import make_mask
from tests.vectors.make_vectors import example_events

BEGIN, END = example_events(make_mask(run=77))


def changed(**fields: Any) -> list[bytes]:
    """The message with fields of the document replaced; one given as ... is left out."""
    topic, document = encode_event(BEGIN)
    plain = msgspec.json.decode(document) | fields
    return [topic, msgspec.json.encode({k: v for k, v in plain.items() if v is not ...})]


@pytest.mark.parametrize("event", [BEGIN, END])
def test_an_event_comes_back_whole(event: EventDocument) -> None:
    topic, document = encode_event(event)
    assert topic == b"event/gate/"
    assert document.startswith(b'{"version":1,"kind":"event",')
    assert parse_event([topic, document]) == event


def test_fields_that_a_reader_does_not_know_are_passed_over_and_two_may_be_absent() -> None:
    assert parse_event(changed(weather={"rain": [1]}, why=..., no_data=...)) == BEGIN


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", ...), ("version", 2), ("kind", "events"), ("kind", ...), ("stream", "yard"), ("run", 0),
        ("journal", "00C0FFEE00C0FFEE"), ("journal", "00c0ffee00c0ffee\n"), ("event_n", -1),
        ("event_n", 2**53), ("event_n", 1.5), ("previous_n", 0), ("previous_n", ...), ("id", ""),
        ("id", "x" * 129), ("event", "a b"), ("zone", ""), ("classes", ["x" * 257]), ("classes", "water"),
        ("classes", ["x"] * 256), ("state", "middle"), ("why", "x" * 65), ("no_data", 0), ("value", 1.01),
        ("value", -0.1), ("value", "NaN"), ("peak", None), ("begun_unix_ns", -1), ("at_unix_ns", 2**63),
        ("duration_s", -1), ("epoch", -1), ("pts", 0.5), ("time_base", [1, 0]), ("time_base", [1]),
    ],
)  # fmt: skip
def test_a_document_that_breaks_a_rule_is_refused(field: str, value: Any) -> None:
    with pytest.raises(WireError):
        parse_event(changed(**{field: value}))


def test_a_message_of_other_parts_or_another_topic_is_refused() -> None:
    topic, document = encode_event(BEGIN)
    for parts in (
        [],
        [topic],
        [topic, document, b""],
        [b"event/gate", document],
        [b"status/gate/", document],
    ):
        with pytest.raises(WireError):
            parse_event(parts)


def test_what_is_longer_than_the_limit_is_neither_written_nor_read() -> None:
    long = msgspec.structs.replace(BEGIN, classes=["ü" * 256] * 200)
    with pytest.raises(WireError, match="the most is 65536"):
        encode_event(long)
    topic, document = encode_event(BEGIN)
    with pytest.raises(WireError, match="at most 65536"):
        parse_event([topic, document + b" " * MAX_EVENT])


def test_mutated_documents_are_read_or_refused() -> None:
    rng, read = random.Random(5), 0
    good = [encode_event(BEGIN), encode_event(END)]
    for _ in range(3000):
        topic, document = rng.choice(good)
        data = bytearray(document)
        for _ in range(rng.randint(1, 3)):
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(3)] = rng.randbytes(rng.randrange(3))
        try:
            assert isinstance(parse_event([topic, bytes(data)]), EventDocument)
            read += 1
        except WireError:
            pass
    assert read > 30


def test_a_reply_brings_all_or_the_last_of_each_stream_and_what_is_open() -> None:
    streams = [[KeptEvent([b"%d" % i, b"%d" % n], n == 3) for n in range(256)] for i in range(16)]
    assert len(replied_events(streams)) == 16 * 256
    streams.append([KeptEvent([b"16", b"0"], False)])
    found = replied_events(streams)
    assert [n for i, n in found if i == b"5"] == [b"3", *(b"%d" % n for n in range(16, 256))]
    assert found[-1] == [b"16", b"0"]
    many = [[KeptEvent([b"", b""], True) for _ in range(9)] for _ in range(1000)]
    assert len(replied_events(many)) == 4096
    assert replied_events([]) == []


def test_a_relay_knows_what_is_open_and_leaves_out_what_it_cannot_read() -> None:
    other = msgspec.structs.replace(BEGIN, event_n=20, previous_n=19, id="other")
    messages = [*map(encode_event, (BEGIN, END, other)), [b"event/gate/", b"{"], [b"event/gate/", b"\xff"]]
    assert [(parse_event(one.parts), one.open) for one in kept_events(messages)] == [
        (BEGIN, False), (END, False), (other, True)
    ]  # fmt: skip

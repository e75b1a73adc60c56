"""Zones and events as plain tables and as TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamseg.config import Config, build_settings
from streamseg.config.tables import (
    AnswerTables,
    checked_tables,
    event_text,
    normal_tables,
    read_tables,
    tables_of,
    toml_of,
    zone_text,
)
from streamseg.errors import ConfigError

RAMP = {"polygon": [[0.1, 0.5], [0.9, 0.5], [0.9, 1.0]], "holes": [[[0.4, 0.6], [0.5, 0.6], [0.5, 0.7]]]}
FLOOD = {"classes": ["water", 'a "b"\\'], "zone": "ramp", "above": 0.3, "for_s": 5.0}
TABLES = AnswerTables(
    {"ramp": RAMP, "gate.line": {"line": [[0.0, 0.0], [1.0, 1.0]], "width": 0.02}}, {"flood": FLOOD}
)


def test_a_stream_s_tables_are_what_was_written_without_what_is_as_by_default() -> None:
    stream = {"source": "demo:", "zones": TABLES.zones, "events": {"flood": FLOOD | {"cooldown_s": 0.0}}}
    config = build_settings(Config, {"streams": {"gate": stream}}).streams["gate"]
    assert tables_of(config) == TABLES
    assert normal_tables("gate", TABLES.zones, {"flood": FLOOD | {"cooldown_s": 0}}) == TABLES


@pytest.mark.parametrize("stream", ["gate", "yard.2"])
def test_what_is_exported_is_read_back_from_a_configuration_and_from_a_file(
    stream: str, tmp_path: Path
) -> None:
    text = toml_of(stream, TABLES)
    assert tomllib.loads(text)["streams"][stream] == {"zones": TABLES.zones, "events": TABLES.events}
    (path := tmp_path / "zones.toml").write_text(text)
    assert read_tables(path, stream) == TABLES
    assert toml_of(stream, AnswerTables()) == ""


def test_a_file_may_have_the_zones_alone(tmp_path: Path) -> None:
    (path := tmp_path / "zones.toml").write_text("[zones.ramp]\npolygon = [[0, 0], [1, 0], [1, 1]]\n")
    assert read_tables(path, "gate").zones == {"ramp": {"polygon": [[0, 0], [1, 0], [1, 1]]}}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("zones = 3", "zones: must be a table of its own for each name"),
        ("[zones]\nramp = 1", "zones: must be a table of its own for each name"),
        ("[zone.ramp]", "zone: unknown table"),
        ("[streams.yard.zones.ramp]", r"has no \[streams.gate\]; streams: 'yard'"),
        ("[zones.", "is not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(text: str, problem: str, tmp_path: Path) -> None:
    (path := tmp_path / "zones.toml").write_text(text)
    with pytest.raises(ConfigError, match=problem):
        read_tables(path, "gate")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_tables(tmp_path / "none.toml", "gate")


def test_every_mistake_is_named_by_its_full_key() -> None:
    with pytest.raises(ConfigError) as caught:
        checked_tables("gate", {"ramp": {"polygon": [[0, 0]]}}, {"flood": FLOOD | {"above": 2}})
    keys = [problem.partition(":")[0] for problem in caught.value.problems]
    assert keys == ["streams.gate.zones.ramp.polygon", "streams.gate.events.flood.above"]


def test_a_revision_differs_where_the_tables_do() -> None:
    assert AnswerTables().revision == ""
    assert TABLES.revision == AnswerTables(dict(TABLES.zones), dict(TABLES.events)).revision
    other = AnswerTables(TABLES.zones, {"flood": FLOOD | {"above": 0.31}})
    assert len({TABLES.revision, other.revision, ""}) == 3


def test_zones_and_events_in_a_few_words() -> None:
    assert zone_text(RAMP) == "a polygon of 3 points with 1 hole"
    assert zone_text(TABLES.zones["gate.line"]) == "a line of 2 points, 2.0% of the height wide"
    assert event_text(FLOOD) == 'water + a "b"\\ in ramp: at least 0.3, until below 0.3 for 5 s'
    assert event_text({"classes": ["car"], "appears": 0.01}) == "car in picture: appears (0.01)"


texts = st.text(st.sampled_from("aB9 é日\"'\\{}[]=#.,-_\xad\U0001f600"), min_size=1, max_size=9)


@given(st.lists(texts, min_size=1, max_size=3, unique=True), st.floats(0.001, 1), st.floats(0, 86400))
def test_any_event_survives_the_way_through_toml(classes: list[str], share: float, for_s: float) -> None:
    event: dict[str, Any] = {"classes": classes, "above": share, "for_s": for_s}
    tables = normal_tables("gate", {}, {"e": event})
    found = tomllib.loads(toml_of("gate", tables))["streams"]["gate"]["events"]["e"]
    assert found == event or for_s == 0

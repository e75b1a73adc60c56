"""FILE of --zones: zones and events alone, or of a stream in a configuration; each mistake is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamseg.config import EventConfig, ZoneConfig
from streamseg.errors import ConfigError
from streamseg.recorded.settings import ZoneTables
from streamseg.recorded.zone_file import read_zones

RAMP = "polygon = [[0.1, 0.5], [0.9, 0.5], [0.9, 1]]"
FLOOD = 'zone = "ramp"\nclasses = ["water"]\nabove = 0.3'
TABLES = ZoneTables(
    zones={"ramp": ZoneConfig(polygon=((0.1, 0.5), (0.9, 0.5), (0.9, 1.0)))},
    events={"flood": EventConfig(zone="ramp", classes=("water",), above=0.3)},
)


@pytest.mark.parametrize(
    ("text", "stream"),
    [
        (f"[zones.ramp]\n{RAMP}\n[events.flood]\n{FLOOD}", ""),
        (f"[streams.gate.zones.ramp]\n{RAMP}\n[streams.gate.events.flood]\n{FLOOD}", ""),
        (
            f'[streams.a]\nsource = "demo:"\n[engine]\nname = "x"\n'
            f"[streams.gate.zones.ramp]\n{RAMP}\n[streams.gate.events.flood]\n{FLOOD}",
            "",
        ),
        (
            f"[streams.a.zones.ramp]\n{RAMP}\n"
            f"[streams.gate.zones.ramp]\n{RAMP}\n[streams.gate.events.flood]\n{FLOOD}",
            "#gate",
        ),
    ],
)
def test_zones_are_read_from_a_file_of_their_own_or_from_a_configuration(
    text: str, stream: str, tmp_path: Path
) -> None:
    (tmp_path / "z.toml").write_text(text)
    assert read_zones(f"{tmp_path}/z.toml{stream}") == TABLES


def test_a_file_may_have_a_number_sign_in_its_name(tmp_path: Path) -> None:
    (tmp_path / "a#b").write_text(f"[zones.ramp]\n{RAMP}\n[events.flood]\n{FLOOD}")
    assert read_zones(str(tmp_path / "a#b")) == TABLES


@pytest.mark.parametrize(
    ("text", "stream", "said"),
    [
        ("", "", "has neither zones nor events; write [zones.NAME] and [events.NAME] tables"),
        (
            "[zones]\n[events]",
            "",
            "has neither zones nor events; write [zones.NAME] and [events.NAME] tables",
        ),
        (f"[zone.ramp]\n{RAMP}", "", "zone: unknown setting; did you mean zones?"),
        (
            f"[zones.ramp]\n{RAMP}\n[zones.ramp]\n{RAMP}",
            "",
            "is not valid TOML: Cannot declare ('zones', 'ramp') twice",
        ),
        (
            f"[zones.ramp]\n{RAMP}\n[zones.picture]\n{RAMP}",
            "",
            "zones.picture: is the name of the whole picture",
        ),
        (f"[events.flood]\n{FLOOD}", "", "events.flood.zone: unknown zone 'ramp'; zones: none"),
        (f"[zones.ramp]\n{RAMP}\ncolour = 3", "", "zones.ramp.colour: unknown setting; known: polygon"),
        ("[zones.ramp]\npolygon = [[0, 0], [2, 0], [1, 1]]", "", "zones.ramp.polygon[1]: must be [x, y]"),
        (f"[zones.ramp]\n{RAMP}", "#gate", "has no streams; leave out #gate"),
        (f"[streams.gate.zones.ramp]\n{RAMP}", "#gat", "has no stream gat; did you mean gate?"),
        (
            f"[streams.a.zones.ramp]\n{RAMP}\n[streams.b.zones.ramp]\n{RAMP}",
            "",
            "streams a, b have zones; name one: z.toml#a",
        ),
        ('[streams.a]\nsource = "demo:"', "", "none of its streams has zones; write [streams.a.zones.NAME]"),
        (
            '[streams.a]\nsource = "demo:"',
            "#a",
            "streams.a has neither zones nor events; write [streams.a.zones.NAME]",
        ),
        ("[streams.a.zones.ramp]\npolygon = 3", "", "streams.a.zones.ramp.polygon: must be a list"),
    ],
)
def test_each_mistake_is_one_line_with_the_file_and_the_key(
    text: str, stream: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("z.toml").write_text(text)
    with pytest.raises(ConfigError) as raised:
        read_zones(f"z.toml{stream}")
    (line,) = raised.value.problems
    assert line.startswith(f"z.toml: {said}")
    assert "\n" not in line


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ConfigError, match=r"^none.toml: cannot be read \(No such file or directory\); write \["
    ):
        read_zones("none.toml")
    with pytest.raises(ConfigError, match=r"^\.: cannot be read \(Is a directory\)"):
        read_zones(".")
    Path("wide.toml").write_bytes("[zones]".encode("utf-16"))
    with pytest.raises(ConfigError, match=r"^wide.toml: is UTF-16 text; save it as UTF-8"):
        read_zones("wide.toml")

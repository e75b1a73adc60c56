"""Which network a stream is run on, and how networks share the cores."""

from __future__ import annotations

import pytest

from streamseg.config import Config, EngineConfig, StreamConfig
from streamseg.config.engines import engine_settings, shared_threads
from streamseg.config.sharing import sharing_problems
from streamseg.errors import ConfigError

OWN = EngineConfig(name="own", threads=3)
SECTIONS = {"fine": EngineConfig(name="net", precision="int8")}


@pytest.mark.parametrize(
    ("name", "known", "settings"),
    [
        ("", "default", OWN),
        ("default", "default", OWN),
        ("fine", "fine", SECTIONS["fine"]),
        ("other", "other", EngineConfig(name="other")),
    ],
)
def test_a_stream_names_its_network(name: str, known: str, settings: EngineConfig) -> None:
    assert engine_settings(name, OWN, SECTIONS) == (known, settings)


def test_the_network_of_the_default_is_not_loaded_twice() -> None:
    assert engine_settings("net", EngineConfig(name="net"), {}) == ("default", EngineConfig(name="net"))


@pytest.mark.parametrize(
    ("threads", "cores", "shares"),
    [
        ([0], 8, [0]),  # alone: as it is
        ([0, 0], 8, [4, 4]),
        ([0, 0, 0], 8, [2, 2, 2]),
        ([6, 0, 0], 8, [6, 1, 1]),
        ([5, 0], 4, [5, 1]),  # at least one
        ([0, 0, 0], 2, [1, 1, 1]),
        ([2, 2], 8, [2, 2]),
    ],
)
def test_networks_share_the_cores_equally(threads: list[int], cores: int, shares: list[int]) -> None:
    engines = {f"e{i}": EngineConfig(name=f"e{i}", threads=count) for i, count in enumerate(threads)}
    assert [one.threads for one in shared_threads(engines, cores).values()] == shares


def test_default_is_no_name_of_a_section() -> None:
    with pytest.raises(ConfigError, match=r"engines\.default: is the name of \[engine\]"):
        Config(engines={"default": OWN})


def test_a_stream_may_share_the_decode_of_one_that_is_there_already() -> None:
    gate = StreamConfig(source="demo:")
    shared = StreamConfig(source="stream:gate", engine="fine", max_fps=2)
    assert list(sharing_problems({"yard": shared}, {"gate": gate})) == []
    assert list(sharing_problems({"yard": shared})) == [
        "streams.yard.source: unknown stream 'gate'; other streams: none"
    ]

"""Settings: read from TOML, refused with their key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamseg.config import (
    Config,
    EngineConfig,
    RefinementConfig,
    StreamConfig,
    load_config,
    parse_config,
)
from streamseg.config.reference import reference_toml
from streamseg.errors import ConfigError
from streamseg.forward.settings import load_forward_config
from streamseg.training.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
ONE = '[streams.gate]\nsource = "gate.mp4"\n'


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text)
    return list(caught.value.problems)


def test_the_reference_file_is_the_one_the_settings_make() -> None:
    assert (ROOT / "configs/reference.toml").read_text() == reference_toml(), (
        "python -m streamseg.config.reference > configs/reference.toml"
    )


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda p: p.name)
def test_every_configuration_we_ship_is_accepted(path: Path) -> None:
    if path.name.startswith("train-"):
        assert load_recipe(path).epochs
    elif path.name.startswith("forward"):
        assert any(load_forward_config(path).sinks())
    else:
        assert load_config(path).streams


def test_the_reference_file_holds_the_defaults() -> None:
    loaded = load_config(ROOT / "configs/reference.toml")
    assert loaded.engine == Config().engine
    assert loaded.publish == Config().publish


def test_an_unknown_key_is_refused_with_the_nearest_known_one() -> None:
    assert problems('[streams.gate]\nsource = "x"\nmaxfps = 3\n') == [
        "streams.gate.maxfps: unknown setting; did you mean streams.gate.max_fps?"
    ]


def test_a_key_of_before_is_refused_with_the_new_one() -> None:
    old = """
lanes = 2
[crf]
preset = "camvid"
[refine]
every = 3
budget_s = 4
[fusion]
enabled = true
"""
    assert problems(ONE + "keep_trying = false\n[engine]" + old) == [
        "crf.preset: is now refinement.crf.preset",
        "refine.every: is now refinement.every",
        "refine.budget_s: is now refinement.timeout_s",
        'fusion.enabled: is now refinement.level = "live"; for fusion alone, refinement.fusion.enabled',
        "streams.gate.keep_trying: is now streams.gate.retry_at_start",
        "engine.lanes: is now engine.replicas",
    ]


def test_a_level_sets_what_is_not_set_by_itself() -> None:
    def of(**settings: object) -> tuple[str, bool, int]:
        config = msgspec.convert(settings, RefinementConfig)
        return config.crf_on, config.fuses, config.frames_ahead

    assert of() == ("off", False, 0)
    assert of(level="live") == ("keyframes", True, 0)
    assert of(level="best") == ("keyframes", True, 4)
    assert of(level="live", lookahead=2) == ("keyframes", True, 2)
    assert of(level="best", crf={"on": "all"}) == ("all", True, 4)
    assert of(level="best", fusion={"enabled": False}) == ("keyframes", False, 0)
    assert of(crf={"on": "keyframes"}) == ("keyframes", False, 0)


def test_a_wrong_value_says_what_it_must_be_and_what_it_is() -> None:
    assert problems(ONE + "max_fps = -3\n") == [
        "streams.gate.max_fps: must be a number above 0, at most 1000; is -3"
    ]


@pytest.mark.parametrize(
    "odd", ["\n", "\r", "\t", "\x1b", "\x07", "\x7f", "\x9b", "\x85", "\u2028", "\u2029"]
)
@pytest.mark.parametrize("key", ["streams.gate.source", "streams.gate.password_file", "publish.endpoint"])
def test_a_text_is_one_line_without_control_characters(key: str, odd: str) -> None:
    section, _, name = key.rpartition(".")
    tables: dict[str, Any] = {"streams": {"gate": {"source": "demo:"}}, "publish": {}}
    table = tables["publish"] if section == "publish" else tables["streams"]["gate"]
    table[name] = f"ipc:///run/x{odd}y"
    with pytest.raises(ConfigError) as caught:
        parse_config(tables)
    assert str(caught.value) == f"{key}: must be one line of text; holds {odd!r}"


def test_text_in_any_script_is_taken() -> None:
    source = "/videos/Straße 3/уличка\u00a0🚗.mp4"
    assert parse_config({"streams": {"gate": {"source": source}}}).streams["gate"].source == source


def test_a_misspelt_choice_names_the_nearest() -> None:
    (line,) = problems(ONE + '[publish]\nencoding = "zst"\n')
    assert line == "publish.encoding: must be one of zstd, png, raw; is 'zst'; did you mean 'zstd'?"


def test_all_problems_come_at_once() -> None:
    text = 'engin = 1\n[streams."a b"]\nsource = 7\n[engine]\nthreads = "two"\n'
    assert [line.split(":")[0] for line in problems(text)] == [
        "engin",
        "streams.a b",
        "streams.a b.source",
        "engine.threads",
    ]


def test_a_missing_source_is_named() -> None:
    assert problems("[streams.gate]\n") == ["streams.gate.source: is missing; it must be text"]


def test_a_config_without_streams_says_how_to_add_one() -> None:
    (line,) = problems("")
    assert "[streams.gate]" in line


@pytest.mark.parametrize("text", ["[streams", "streams = 3", "[[streams]]\n", "streams.gate = 4"])
def test_what_is_no_table_is_refused(text: str) -> None:
    assert problems(text)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml: cannot be read"):
        load_config(tmp_path / "nowhere.toml")


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"a = 1\n\xff\xfe\x00")
    with pytest.raises(ConfigError, match="holds NUL bytes"):
        load_config(tmp_path / "x.toml")


def made(kind: Any, **settings: Any) -> Any:
    return kind(**settings)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: made(Config, engine={"precision": "int99"}), "engine.precision: must be one of"),
        (lambda: made(Config, engine={"precison": "int8"}), "engine.precison: unknown setting"),
        (lambda: made(EngineConfig, precision="int99"), "precision: must be one of"),
        (lambda: made(StreamConfig, source="demo:", max_fps=-3), "max_fps: must be a number above 0"),
        (
            lambda: made(Config, streams=[{"source": "demo:"}]),
            r"streams: must be a table of its own for each name",
        ),
    ],
)
def test_settings_made_in_python_are_checked_like_a_file(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        make()


def test_tables_may_be_given_as_dicts() -> None:
    config = parse_config({"streams": {"gate": {"source": "demo:"}}, "engine": {"precision": "int8"}})
    assert config == parse_config('[streams.gate]\nsource = "demo:"\n[engine]\nprecision = "int8"\n')
    assert made(Config, streams={"gate": {"source": "demo:"}}, engine={"precision": "int8"}) == config


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[streams.Türe]\nsource = "demo:"\n', "a name here must be A-Z, a-z, 0-9, _ and -; is Türe"),
        ("[streams.a]\nsource = rtsp://a:geheim7@x/\n", r'write text in quotes: "rtsp://a:\*\*\*@x/"'),
        (
            '[[streams]]\nsource = "demo:"\n',
            r"streams: must be a table of its own .* such as \[streams.gate\]",
        ),
    ],
)
def test_what_toml_does_not_explain_is_explained(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        parse_config(text)
    assert "geheim7" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "size"),
    [('"input"', "input"), ('"frame"', "frame"), ("[270, 480]", (270, 480)), ("[1, 8192]", (1, 8192))],
)
def test_masks_have_the_size_of_the_frame_of_the_input_or_their_own(given: str, size: Any) -> None:
    assert parse_config(f"{ONE}mask_size = {given}\n").streams["gate"].mask_size == size


@pytest.mark.parametrize(
    "given", ["[0, 5]", "[3]", "[1, 2, 3]", "[8193, 2]", "3", "[1.5, 2]", "true", '["a", 2]', "[]"]
)
def test_a_size_of_masks_that_is_none_is_one_line(given: str) -> None:
    (problem,) = problems(f"{ONE}mask_size = {given}\n")
    assert problem.startswith(
        "streams.gate.mask_size: must be one of frame, input or a list of 2, each a whole number at least 1, "
        "at most 8192; is "
    )


def test_a_word_like_one_of_the_sizes_of_masks_is_guessed() -> None:
    assert problems(f'{ONE}mask_size = "inptu"\n')[0].endswith("is 'inptu'; did you mean 'input'?")

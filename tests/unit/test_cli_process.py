"""streamseg process: its options are the keys of its settings."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

import streamseg.recorded
from streamseg.cli import MOVED, main
from streamseg.cli.process import command
from streamseg.cli.run import command as run
from streamseg.config import CrfConfig, FusionConfig, RefinementConfig
from streamseg.errors import UsageError


def settings_of(monkeypatch: pytest.MonkeyPatch, *options: str) -> Any:
    seen: list[Any] = []

    def process_files(inputs: Any, out: Any, config: Any, **how: Any) -> Any:
        seen.append(config)
        raise UsageError("seen")

    monkeypatch.setattr(streamseg.recorded, "process_files", process_files)
    CliRunner().invoke(command, ["a.mp4", "--out", "out", *options])
    return seen[0]


def test_a_level_and_its_expert_options_become_the_section(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings_of(monkeypatch).refinement == RefinementConfig()
    config = settings_of(monkeypatch, "--refinement", "best", "--refinement-every", "3",
                         "--refinement-crf-on", "all", "--refinement-crf-quality", "fast",
                         "--no-refinement-fusion-enabled", "--refinement-lookahead", "0")  # fmt: skip
    assert config.refinement == RefinementConfig(
        level="best",
        every=3,
        lookahead=0,
        crf=CrfConfig(on="all", quality="fast"),
        fusion=FusionConfig(enabled=False),
    )


@pytest.mark.parametrize("option", ["--crf", "--crf-every=3", "--ahead", "--fusion", "--preset", "--quality"])
def test_an_option_of_before_is_refused_with_the_new_one(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = option.partition("=")[0]
    monkeypatch.setattr("sys.argv", ["streamseg", "process", "a.mp4", "--out", "out", option])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"streamseg: {name}: is now {MOVED[name]}\n"


def test_a_camera_may_be_tried_again_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr("streamseg.cli.run._run", lambda settings, *rest: started.append(settings))
    for options in ((), ("--retry-at-start",)):
        CliRunner().invoke(run, ["--source", "rtsp://127.0.0.1/x", *options])
    assert [config.streams["video"].retry_at_start for config in started] == [False, True]

"""Labels as people want them, through the whole daemon and through recorded jobs."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from streamseg.client import subscribe
from streamseg.config import EngineConfig, LabelsConfig, RefinementConfig
from streamseg.errors import ConfigError, ControlError
from streamseg.inference.label_view import drop_small
from streamseg.recorded import Finished, ProcessConfig, process_file, process_files
from streamseg.recorded.manifest import read_manifest
from streamseg.types import IGNORE, Mask
from tests.engines import write_tiny_engine
from tests.integration.test_control import Site, mask_of
from tests.media import draw_clip
from tests.waiting import LIMIT_S

pytestmark = pytest.mark.usefixtures("own_runtime")
CHOSEN = '[streams.gate.labels]\nmerge = { coloured = ["red", "green"] }\nonly = ["coloured"]\n'


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_clip(tmp_path_factory.mktemp("clips") / "red.mp4", frames=30)


@pytest.fixture
def site(tmp_path: Path, tiny_engine: Path, clip: Path) -> Site:
    site = Site(tmp_path, tiny_engine, clip)
    site.write({"gate": 20, "yard": 10})
    return site


def test_a_reload_exchanges_labels_without_a_restart_and_no_mask_mixes_them(site: Site) -> None:
    """Masks whole and in order, each with labels of the set that it names; other streams notice nothing."""
    site.write({"gate": 20, "yard": 10}, CHOSEN)
    with (
        site.running() as (daemon, client),
        subscribe(daemon.endpoint, newest=False, queue=100_000) as masks,
    ):
        first = mask_of(masks, "gate", lambda m: m.seq > 3)
        chosen = masks.label_set(first.label_set, LIMIT_S)
        assert (chosen.names, chosen.id) == (("coloured",), first.label_set)
        assert chosen.classes[0].colour == (220, 40, 40)
        assert set(np.unique(first.labels)) == {0, IGNORE}
        assert mask_of(masks, "yard").label_set == "tiny-4"
        seen: list[Mask] = [first]
        changes: tuple[tuple[str, Callable[[Mask], bool]], ...] = (
            ("", lambda m: m.label_set == "tiny-4"),
            ("[streams.gate.labels]\nmin_region = 100000\n", lambda m: bool((m.labels == IGNORE).all())),
            (
                '[engine.labels]\ncolours = { blue = [1, 2, 3] }\nonly = ["red", "blue"]\n',
                lambda m: m.label_set not in ("tiny-4", first.label_set),
            ),
            (CHOSEN, lambda m: m.label_set == first.label_set),
        )
        for more, changed in changes:
            site.write({"gate": 20, "yard": 10}, more)
            done = client.reload()
            assert not done.restarted
            assert any("gate" in key or "labels" in key for key in done.applied), done
            last = len(seen)
            while len(seen) == last or not changed(seen[-1]):
                seen.append(mask_of(masks, "gate"))
            seen += [mask_of(masks, "gate") for _ in range(20)]
            assert all(map(changed, seen[-20:]))
            if "engine.labels" in more:
                named = masks.label_set(seen[-1].label_set, LIMIT_S)
                assert named.names == ("red", "blue")
                assert named.classes[1].colour == (1, 2, 3)
                assert mask_of(masks, "yard", lambda m, to=seen[-1].label_set: m.label_set == to)
            sets = [mask.label_set for mask in seen[last:]]
            assert len(dict.fromkeys(sets)) <= 2, "the settings change once"
        assert all(one.n < other.n for one, other in itertools.pairwise(seen)), "stats.lost counts the gaps"
        for mask in seen:
            classes = masks.label_set(mask.label_set, LIMIT_S).classes
            assert np.isin(mask.labels, [*range(len(classes)), IGNORE]).all()
        assert masks.stats.lost == 0


def test_labels_that_do_not_fit_are_refused_and_the_streams_go_on(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    with site.running() as (daemon, client), subscribe(daemon.endpoint) as masks:
        site.write({"gate": 20}, '[streams.gate.labels]\nonly = ["rad"]\nmerge = { x = [] }\n')
        with pytest.raises(ControlError) as caught:
            client.reload()
        assert "streams.gate.labels.merge.x: must name at least one class" in str(caught.value)
        site.write({"gate": 20}, '[engine.labels]\nonly = ["rad"]\n')
        with pytest.raises(
            ControlError, match=r"engine\.labels\.only: unknown class 'rad'; did you mean 'red'"
        ):
            client.reload()
        assert "reload refused: the previous configuration stays in force" in caplog.text
        with pytest.raises(ControlError) as caught:
            client.add("hall", source=str(site.clip), labels={"only": ["blau"]})
        assert "streams.hall.labels.only: unknown class 'blau'; did you mean 'blue'?" in str(caught.value)
        assert "\n" not in str(caught.value)
        client.add("hall", source=str(site.clip), loop=True, labels={"only": ["blue", "red"]})
        hall = mask_of(masks, "hall")
        assert masks.label_set(hall.label_set, LIMIT_S).names == ("red", "blue")
        assert mask_of(masks, "gate").label_set == "tiny-4"
        assert list(client.status().streams) == ["gate", "yard", "hall"]


def test_an_engine_and_the_labels_made_of_its_classes_are_exchanged_together(
    site: Site, tmp_path: Path
) -> None:
    """No frame in between has the labels of one and the classes of the other: that would end the daemon."""
    other = write_tiny_engine(tmp_path / "other", name="other")
    toml = (other / "engine.toml").read_text().replace('"red"', '"rouge"').replace("tiny-4", "autre-4")
    (other / "engine.toml").write_text(toml)
    site.extra = f'[engines.other]\nname = "{other}"\nbackend = "onnx"\nthreads = 1\n'
    red = '[streams.gate.labels]\nonly = ["red"]\n'
    rouge = 'engine = "other"\n'
    site.write({"gate": 20}, red)
    with (
        site.running() as (daemon, client),
        subscribe(daemon.endpoint, newest=False, queue=100_000) as masks,
    ):
        first = mask_of(masks, "gate")
        with pytest.raises(ControlError) as caught:
            client.engine("gate", "other")
        assert "streams.gate.labels.only: unknown class 'red'; classes: other, rouge" in str(caught.value)
        before = site.path.read_text()
        for _ in range(3):
            changed = before.replace("[streams.gate]\n", f"[streams.gate]\n{rouge}").replace(
                'only = ["red"]', 'only = ["rouge", "blue"]'
            )
            site.path.write_text(changed)
            client.reload()
            mask = mask_of(masks, "gate", lambda m: m.engine.startswith("other/"))
            assert masks.label_set(mask.label_set, LIMIT_S).names == ("rouge", "blue")
            site.path.write_text(before)
            client.reload()
            mask = mask_of(masks, "gate", lambda m: m.engine.startswith("tiny/"))
            assert mask.label_set == first.label_set
        assert masks.stats.lost == 0


def test_a_daemon_does_not_start_with_labels_that_do_not_fit(site: Site) -> None:
    site.write({"gate": 20}, '[streams.gate.labels]\nmerge = { red = ["green", "blue"] }\n')
    done = subprocess.run(
        [sys.executable, "-m", "streamseg", "run", str(site.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        "streamseg: streams.gate.labels.merge.red: is also a class of the engine that is not in it; put "
    )
    checked = subprocess.run(
        [sys.executable, "-m", "streamseg", "check", str(site.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "streams.gate.labels.merge.red: is also a class" in checked.stdout + checked.stderr


def test_refined_masks_and_confidence_have_the_same_labels(site: Site) -> None:
    site.write(
        {"gate": 20},
        '[streams.gate.labels]\nonly = ["red"]\nmin_confidence = 0.5\n[refinement]\nevery = 1\n'
        'priority = "normal"\n',
    )
    with (
        site.running() as (daemon, _),
        subscribe(daemon.endpoint, refined=True) as refined,
        subscribe(daemon.endpoint, confidence=True) as sure,
    ):
        mask = mask_of(refined, "gate", lambda m: m.revision == 1)
        assert refined.label_set(mask.label_set, LIMIT_S).names == ("red",)
        assert set(np.unique(mask.labels)) <= {0, IGNORE}
        both = mask_of(sure, "gate", lambda m: m.confidence is not None)
        assert both.label_set == mask.label_set
        assert both.confidence is not None
        assert (both.confidence[both.labels == IGNORE] == 0).all()
        assert (both.confidence[both.labels == 0] >= 127).all()


@pytest.mark.parametrize("level", ["off", "best"])
def test_recorded_labels_are_those_of_the_network_published_as_wanted(
    tmp_path: Path, clip: Path, tiny_engine: Path, level: str
) -> None:
    engine = EngineConfig(name=str(tiny_engine), threads=1)
    plain = ProcessConfig(engine=engine, refinement=RefinementConfig(level=level), confidence=True)  # type: ignore[arg-type]
    labels = LabelsConfig(only=("red",), min_confidence=0.6, min_region=40)
    viewed = msgspec.structs.replace(plain, engine=msgspec.structs.replace(engine, labels=labels))
    with process_file(clip, plain) as masks:
        before = list(masks)
    with process_file(clip, viewed) as masks:
        after = list(masks)
    assert len(after) == len(before) == 30
    for one, other in zip(before, after, strict=True):
        assert one.confidence is not None
        want = np.where((one.labels == 1) & (one.confidence >= 153), 0, IGNORE).astype(np.uint8)
        np.testing.assert_array_equal(other.labels, drop_small(want, None, 40)[0])
    told: list[object] = []
    for _ in range(2):
        assert process_files([clip], tmp_path / "out", viewed, on_event=told.append).whole
    assert [one.again for one in told if isinstance(one, Finished)] == [False, True], "it is known again"
    manifest = read_manifest(tmp_path / "out" / "red.manifest.json")
    assert (manifest.classes, manifest.label_set) == (("red",), after[0].label_set)


def test_recorded_labels_that_do_not_fit_are_refused(tmp_path: Path, clip: Path, tiny_engine: Path) -> None:
    engine = EngineConfig(name=str(tiny_engine), labels=LabelsConfig(only=("grey",)))
    with pytest.raises(ConfigError, match="only: unknown class 'grey'; did you mean 'green'"):
        process_files([clip], tmp_path / "out", ProcessConfig(engine=engine))

"""Every kind of result says the same as the masks, and common tools read it."""

from __future__ import annotations

import csv
import json
import os
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from streamseg.analytics.regions import fill
from streamseg.cli.report import Report
from streamseg.config import CrfConfig, EngineConfig, RefinementConfig
from streamseg.errors import UsageError
from streamseg.recorded import Event, ProcessConfig, Progressed, Started, process_file, process_files, route
from streamseg.recorded.audio import Sound
from streamseg.recorded.manifest import read_manifest
from streamseg.recorded.tracks import read_labels
from streamseg.recorded.verify import verify_folder
from streamseg.types import Frame, Mask
from streamseg.wire.rle import decode_labels
from tests.engines import TINY_CLASSES
from tests.media import GREEN, GREY, RED, picture, write_video
from tests.media import with_sound as draw_sound

ZARR, PARQUET = find_spec("zarr") is not None, find_spec("pyarrow") is not None


@pytest.fixture(scope="module")
def config(tiny_engine: Path) -> ProcessConfig:
    return ProcessConfig(
        engine=EngineConfig(name=str(tiny_engine), threads=1),
        confidence=True,
        png=True,
        rle=True,
        zarr=ZARR,
        areas=True,
        events=True,
        polygons="both",
        tables="both" if PARQUET else "csv",
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, config: ProcessConfig) -> Path:
    """30 frames at 10 fps: 1 s half red, 1 s half green, 0.5 s nothing, 0.5 s half green."""
    folder = tmp_path_factory.mktemp("outputs")
    colours = [RED] * 10 + [GREEN] * 10 + [GREY] * 5 + [GREEN] * 5
    pictures = [picture((48, 64), 0.5, colour) for colour in colours]
    write_video(
        folder / "clip.mkv",
        pictures,
        codec="ffv1",
        pix_fmt="bgr0",
        time_base=Fraction(1, 1000),
        pts=[100 * i for i in range(30)],
    )
    process_files([folder / "clip.mkv"], folder / "out", config)
    return folder


@pytest.fixture(scope="module")
def masks(made: Path, config: ProcessConfig) -> list[Mask]:
    with process_file(made / "clip.mkv", config) as found:
        return list(found)


def test_each_png_has_the_labels_and_the_colours_of_its_classes(made: Path, masks: list[Mask]) -> None:
    image = pytest.importorskip("PIL.Image")
    paths = sorted((made / "out" / "clip.labels-png").iterdir())
    assert [p.name for p in paths] == [f"{m.seq:08d}.png" for m in masks]
    for path, mask in zip(paths, masks, strict=True):
        with image.open(path) as opened:
            assert opened.mode == "P"
            assert (np.asarray(opened) == mask.labels).all()
            assert opened.getpalette()[: 3 * 4] == [v for rgb in TINY_CLASSES.values() for v in rgb]
    read = cv2.imread(str(paths[0]))
    assert read is not None
    assert read.shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (["b10.PNG", "b9.png", "a.png"], ["a.png", "b9.png", "b10.png"]),
        (["x.png", "x.PNG"], ["x.PNG.png", "x.png.png"]),
    ],
)
def test_photos_keep_their_names(
    tmp_path: Path, config: ProcessConfig, images: list[str], names: list[str]
) -> None:
    (tmp_path / "photos").mkdir()
    for name in images:
        cv2.imwrite(str(tmp_path / "made.png"), picture((48, 64), 1.0, RED)[..., ::-1])
        (tmp_path / "made.png").rename(tmp_path / "photos" / name)
    few = ProcessConfig(engine=config.engine, overlay=False, png=True)
    assert process_files([tmp_path / "photos"], tmp_path / "out", few).whole
    assert sorted(p.name for p in (tmp_path / "out/photos.labels-png").iterdir()) == sorted(names)
    assert [v.problems for v in verify_folder(tmp_path / "out")] == [[]]


def test_photos_whose_names_are_not_text_get_names_that_are(tmp_path: Path, config: ProcessConfig) -> None:
    (tmp_path / "photos").mkdir()
    for name in (b"\xe9 0.png", b"line\nfeed.png", b"x" * 240 + b".png"):
        cv2.imwrite(str(tmp_path / "made.png"), picture((48, 64), 1.0, RED)[..., ::-1])
        (tmp_path / "made.png").rename(tmp_path / "photos" / os.fsdecode(name))
    few = ProcessConfig(engine=config.engine, overlay=False, png=True)
    assert process_files([tmp_path / "photos"], tmp_path / "out", few).whole
    names = {p.name for p in (tmp_path / "out/photos.labels-png").iterdir()}
    assert {"%E9 0.png", "line%0Afeed.png"} < names
    assert len(names) == 3
    assert [v.problems for v in verify_folder(tmp_path / "out")] == [[]]
    (tmp_path / "out/photos.labels-png" / os.fsdecode(b"\xff")).touch()
    (verdict,) = verify_folder(tmp_path / "out")
    assert "photos.labels-png: has been changed" in verdict.problems[0]


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (5, 1), (3, 5)])
def test_masks_may_be_as_small_as_a_picture(
    tmp_path: Path, config: ProcessConfig, size: tuple[int, int]
) -> None:
    lossless = {"codec": "ffv1", "pix_fmt": "bgr0", "options": {"slices": "1"}}
    write_video(tmp_path / "clip.mkv", [picture(size, 1.0, RED)] * 3, **lossless)
    few = ProcessConfig(engine=config.engine, confidence=True)
    (finished,) = process_files([tmp_path / "clip.mkv"], tmp_path / "out", few).finished
    assert (finished.manifest.masks, finished.manifest.not_made) == (3, {})
    assert [v.problems for v in verify_folder(tmp_path / "out")] == [[]]


def test_the_run_lengths_decode_to_the_labels(made: Path, masks: list[Mask]) -> None:
    lines = [json.loads(line) for line in (made / "out" / "clip.rle.jsonl").read_text().splitlines()]
    for line, mask in zip(lines, masks, strict=True):
        segments = [(s["category_id"], s["segmentation"]["counts"]) for s in line["segments_info"]]
        assert (decode_labels(segments, mask.size) == mask.labels).all()
        assert (line["seq"], line["pts"], line["time_s"]) == (mask.seq, mask.pts, mask.seq / 10)
        assert sum(s["area"] for s in line["segments_info"]) == mask.labels.size


def test_the_outlines_are_those_of_the_labels(made: Path, masks: list[Mask]) -> None:
    features = json.loads((made / "out" / "clip.polygons.geojson").read_bytes())["features"]
    coco = json.loads((made / "out" / "clip.polygons.coco.json").read_bytes())
    assert [image["time_s"] for image in coco["images"]] == [mask.seq / 10 for mask in masks]
    for mask in masks:
        painted = np.full(mask.size, 255, np.uint8)
        mine = [f for f in features if f["properties"]["seq"] == mask.seq]
        for feature in mine:
            rings = [np.array(ring[:-1]) for ring in feature["geometry"]["coordinates"]]
            painted[fill(rings, mask.size)] = feature["properties"]["id"]
            assert 0 < feature["properties"]["confidence"] <= 1
        assert (painted == mask.labels).all()  # upright edges lose nothing
        areas = sorted((f["properties"]["id"], f["properties"]["area"]) for f in mine)
        ours = [a for a in coco["annotations"] if a["image_id"] == mask.seq]
        assert sorted((a["category_id"], a["area"]) for a in ours) == areas


@pytest.mark.skipif(not ZARR, reason="zarr is not installed; pip install 'streamseg[zarr]'")
def test_the_zarr_group_is_the_labels(made: Path, masks: list[Mask]) -> None:
    import zarr

    group: Any = zarr.open_group(str(made / "out" / "clip.labels.zarr"), mode="r")
    assert (group["labels"][:] == np.stack([m.labels for m in masks])).all()
    assert group["labels"].metadata.dimension_names == ("frame", "y", "x")
    assert group["pts"][:].tolist() == [m.pts for m in masks]
    assert group["seq"][:].tolist() == list(range(30))
    assert group["time_s"][:].tolist() == [i / 10 for i in range(30)]
    assert group.attrs["classes"] == list(TINY_CLASSES)


@pytest.mark.skipif(not PARQUET, reason="pyarrow is not installed; pip install 'streamseg[parquet]'")
def test_the_parquet_tables_say_what_the_csv_ones_say(made: Path) -> None:
    import pyarrow.csv
    import pyarrow.parquet

    for name in ("areas", "events"):
        table = pyarrow.parquet.read_table(made / "out" / f"clip.{name}.parquet")
        assert table.to_pydict() == pyarrow.csv.read_csv(made / "out" / f"clip.{name}.csv").to_pydict()
    areas = pyarrow.parquet.read_table(made / "out" / "clip.areas.parquet")
    assert [str(t) for t in areas.schema.types] == ["int64", "int64", "double"] + ["int64"] * 4


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools with NumPy 2
def test_a_line_of_segments_is_a_panoptic_annotation(made: Path, masks: list[Mask]) -> None:
    coco = pytest.importorskip("pycocotools.mask")
    line = json.loads((made / "out" / "clip.rle.jsonl").read_text().splitlines()[0])
    for segment in line["segments_info"]:
        assert {"id", "category_id", "area", "bbox", "iscrowd"} <= set(segment)
        there = coco.decode(segment["segmentation"])
        assert (there == (masks[0].labels == segment["category_id"])).all()
        assert coco.area(segment["segmentation"]) == segment["area"]
        assert coco.toBbox(segment["segmentation"]).tolist() == segment["bbox"]


def test_a_kind_of_result_without_its_library_is_refused_at_once(
    made: Path, config: ProcessConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamseg.recorded.job.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"zarr: needs zarr; pip install 'streamseg\[zarr\]'"):
        process_files([made / "clip.mkv"], tmp_path, ProcessConfig(engine=config.engine, zarr=True))
    with pytest.raises(UsageError, match=r"parquet: needs pyarrow; pip install 'streamseg\[parquet\]'"):
        process_files(
            [made / "clip.mkv"], tmp_path, ProcessConfig(engine=config.engine, areas=True, tables="parquet")
        )


def test_the_confidence_video_is_the_highest_probability(made: Path, masks: list[Mask]) -> None:
    found = list(read_labels(made / "out" / "clip.confidence.mp4"))
    for (ticks, confidence), mask in zip(found, masks, strict=True):
        assert ticks == mask.pts
        assert mask.confidence is not None
        assert (confidence == mask.confidence).all()
    assert found[0][1].max() > 200


def test_the_tables_tell_areas_and_events(made: Path, masks: list[Mask]) -> None:
    with (made / "out" / "clip.areas.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row, mask in zip(rows, masks, strict=True):
        areas = [int(row[name]) for name in TINY_CLASSES]
        assert areas == np.bincount(mask.labels.reshape(-1), minlength=4).tolist()
    with (made / "out" / "clip.events.csv").open() as file:
        events = [(e["name"], e["from_s"], e["to_s"], e["frames"]) for e in csv.DictReader(file)]
    # Green was away for half a second, less than event_gap_s: one event.
    assert events == [
        ("other", "0.0", "2.9", "30"),
        ("red", "0.0", "0.9", "10"),
        ("green", "1.0", "2.9", "15"),
    ]


def test_an_absence_longer_than_the_gap_ends_an_event(
    made: Path, config: ProcessConfig, tmp_path: Path
) -> None:
    short = ProcessConfig(engine=config.engine, events=True, event_gap_s=0.3, event_share=0.4)
    process_files([made / "clip.mkv"], tmp_path, short)
    with (tmp_path / "clip.events.csv").open() as file:
        green = [(e["from_s"], e["to_s"]) for e in csv.DictReader(file) if e["name"] == "green"]
    assert green == [("1.0", "1.9"), ("2.5", "2.9")]


def test_everything_is_in_the_proof(made: Path) -> None:
    (verdict,) = verify_folder(made / "out")
    assert verdict.problems == []
    manifest = read_manifest(made / "out" / "clip.manifest.json")
    assert {o.file for o in manifest.outputs.values()} | {"clip.manifest.json"} == {
        p.name for p in (made / "out").iterdir()
    }
    png = made / "out" / "clip.labels-png" / "00000003.png"
    data = png.read_bytes()
    png.write_bytes(data[:-1] + b"?")
    (verdict,) = verify_folder(made / "out")
    png.write_bytes(data)
    assert ["clip.labels-png" in p for p in verdict.problems] == [True]


def test_only_what_is_asked_for_is_left(made: Path, config: ProcessConfig, tmp_path: Path) -> None:
    few = ProcessConfig(engine=config.engine, labels=False, overlay=False, png=True)
    process_files([made / "clip.mkv"], tmp_path, few)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "clip.labels-png",
        "clip.manifest.json",
        "clip.summary.json",
    ]
    assert [v.problems for v in verify_folder(tmp_path)] == [[]]


def with_sound(path: Path, pictures: int, pts: list[int] | None = None) -> Path:
    with av.open(str(path), "w", options={"movie_timescale": "1000"}) as container:
        video = container.add_stream("libx264", rate=25, options={"bf": "0"})
        video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
        sound = container.add_stream("aac", rate=44100)
        for i in range(pictures):
            frame = av.VideoFrame.from_ndarray(picture((48, 64), 0.5), format="rgb24")
            frame.pts = i
            container.mux(video.encode(frame))
        container.mux(video.encode())
        noise = np.random.default_rng(0).normal(0, 0.1, (pictures * 2, 1, 882)).astype(np.float32)
        for i, samples in enumerate(noise):
            wave_frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            wave_frame.sample_rate, wave_frame.pts = 44100, i * 882
            container.mux(sound.encode(wave_frame))
        container.mux(sound.encode())
    return path


def sound_packets(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        packets = [p for p in container.demux(stream) if p.size]
        return [(float((p.pts or 0) * p.time_base), bytes(p)) for p in packets]


def test_the_overlay_has_the_sources_sound_at_its_time(tmp_path: Path, config: ProcessConfig) -> None:
    clip = with_sound(tmp_path / "clip.mp4", 25)
    out = tmp_path / "out"
    process_files([clip], out, ProcessConfig(engine=config.engine))
    assert sound_packets(out / "clip.overlay.mp4") == sound_packets(clip)
    with av.open(str(clip)) as source, av.open(str(out / "clip.overlay.mp4")) as overlay:
        assert [f.pts for f in overlay.decode(video=0)] == [f.pts for f in source.decode(video=0)]
    assert [v.problems for v in verify_folder(out)] == [[]]

    process_files([clip], out, ProcessConfig(engine=config.engine, start_s=0.4, end_s=0.8))
    cut = sound_packets(out / "clip.overlay.mp4")
    assert [data for _, data in cut] == [data for at, data in sound_packets(clip) if 0.4 <= at < 0.8]

    process_files([clip], out, ProcessConfig(engine=config.engine, audio=False))
    with av.open(str(out / "clip.overlay.mp4")) as overlay:
        assert not overlay.streams.audio


def test_what_became_of_the_sound_is_told_and_never_decides_over_masks(
    tmp_path: Path, config: ProcessConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_sound(tmp_path / "a.avi", "pcm_mulaw", rate=8000)
    draw_sound(tmp_path / "back.ts", "aac")
    draw_sound(tmp_path / "again.ts", "aac", seconds=1.0)
    data = (tmp_path / "again.ts").read_bytes()
    packets = [data[at : at + 188] for at in range(0, len(data), 188)]
    sound = b"".join(p for p in packets if p[1] & 31 == 1 and p[2] == 1)
    (tmp_path / "back.ts").write_bytes((tmp_path / "back.ts").read_bytes() + sound)
    names = ["a.avi", "back.ts"]
    with Report() as report:
        result = process_files(
            [tmp_path / name for name in names],
            tmp_path / "out",
            ProcessConfig(engine=config.engine),
            on_event=report.event,
        )
    assert result.whole
    told = [one.manifest.sound for one in result.finished]
    assert told[0] == "pcm_mulaw, converted to AAC"
    assert told[1] is not None
    assert told[1].endswith("s, then left out: its time stamps step back")
    assert [one.manifest.masks for one in result.finished] == [50, 50]
    assert f"back.ts: sound: {told[1]}" in capsys.readouterr().err
    assert [v.problems for v in verify_folder(tmp_path / "out")] == [[], []]


def test_without_a_muxer_for_the_sound_the_overlay_has_none(
    tmp_path: Path, config: ProcessConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(sound: Sound, container: Any) -> None:
        raise av.error.ArgumentError(22, "Invalid argument")

    monkeypatch.setattr(Sound, "begin", refused)
    draw_sound(tmp_path / "clip.mkv", "aac")
    result = process_files([tmp_path / "clip.mkv"], tmp_path / "out", ProcessConfig(engine=config.engine))
    assert result.whole
    assert result.finished[0].manifest.sound == "left out: MP4 does not take it (Invalid argument)"
    with av.open(str(tmp_path / "out" / "clip.overlay.mp4")) as overlay:
        assert [s.type for s in overlay.streams] == ["video"]


@pytest.mark.parametrize(
    ("name", "aspect", "rotation", "wanted"),
    [
        ("clip.mp4", Fraction(24, 11), 0, Fraction(24, 11)),
        ("clip.ts", Fraction(8, 9), 0, Fraction(8, 9)),
        ("clip.mp4", Fraction(4, 3), 90, Fraction(3, 4)),
        ("clip.mp4", Fraction(500, 1), 0, None),  # no camera has that
    ],
)
def test_pixels_that_are_not_square_stay_so_on_every_video(
    tmp_path: Path,
    config: ProcessConfig,
    name: str,
    aspect: Fraction,
    rotation: float,
    wanted: Fraction | None,
) -> None:
    def squeezed(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = aspect

    clip = tmp_path / name
    noise = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3)).astype(np.uint8)
    write_video(clip, list(noise), setup=squeezed, rotation=rotation)
    result = process_files([clip], tmp_path / "out", ProcessConfig(engine=config.engine, confidence=True))
    assert result.whole
    for track in ("labels", "confidence", "overlay"):
        with av.open(str(tmp_path / "out" / f"clip.{track}.mp4")) as container:
            assert (container.streams.video[0].sample_aspect_ratio or 1) == (wanted or 1), track
    said = result.finished[0].manifest.container["pixel_aspect"]
    assert said == (None if wanted is None else str(wanted))
    assert [v.problems for v in verify_folder(tmp_path / "out")] == [[]]


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"every": 7}, [0, 7, 14, 21, 28]),
        ({"max_fps": 3.0}, [0, 4, 7, 10, 14, 17, 20, 24, 27]),
        ({"max_fps": 10.0}, list(range(30))),
        ({"start_s": 1.05, "end_s": 1.4}, [11, 12, 13]),
        ({"start_s": 0.4, "end_s": 0.8}, [4, 5, 6, 7]),
        ({"start_s": 2.5, "every": 2}, [25, 27, 29]),
        ({"end_s": 0.3}, [0, 1, 2]),
    ],
)
def test_frames_are_chosen_by_time_and_number(
    made: Path, config: ProcessConfig, settings: dict[str, float], wanted: list[int]
) -> None:
    with process_file(made / "clip.mkv", ProcessConfig(engine=config.engine, **settings)) as masks:  # type: ignore[arg-type]
        assert [m.pts for m in masks] == [100 * i for i in wanted]


def test_scale_changes_the_size_of_every_result(made: Path, config: ProcessConfig, tmp_path: Path) -> None:
    process_files([made / "clip.mkv"], tmp_path, ProcessConfig(engine=config.engine, scale=0.5))
    _, labels = next(read_labels(tmp_path / "clip.labels.mp4"))
    assert labels.shape == (24, 32)
    with av.open(str(tmp_path / "clip.overlay.mp4")) as overlay:
        assert overlay.streams.video[0].width == 32


@pytest.mark.parametrize(
    ("crf", "wanted"), [("off", [None] * 30), ("keyframes", [0, 10, 20, 25]), ("all", list(range(30)))]
)
def test_masks_tell_which_frames_were_refined(
    made: Path, config: ProcessConfig, crf: str, wanted: list[int | None]
) -> None:
    """Keyframes: every tenth, and where the scene changes: from red to green, to grey, to green."""
    refinement = RefinementConfig(every=10, crf=CrfConfig(on=crf))  # type: ignore[arg-type]
    settings = ProcessConfig(engine=config.engine, refinement=refinement)
    with process_file(made / "clip.mkv", settings) as masks:
        found = list(masks)
    refined = [m.refined_seq for m in found if m.refined_seq is not None]
    assert refined == [seq for seq in wanted if seq is not None]
    assert [m.seq for m in found if m.revision == 1] == refined


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames went through the network."""
    counted: list[int] = []
    infer = route.infer

    def counting(engine: Any, group: list[Frame]) -> Any:
        counted.append(len(group))
        return infer(engine, group)

    monkeypatch.setattr(route, "infer", counting)
    return counted


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


FEW: dict[str, Any] = {"overlay": False, "areas": True}
MORE: list[dict[str, Any]] = [
    {"overlay": False, "events": True, "png": True},
    {"rle": True},  # and the overlay, which is a default
    {"labels": True, "overlay": False, "zarr": ZARR, "event_share": 0.5, "events": True},
    {"overlay_opacity": 0.9},
]


def test_more_outputs_are_made_of_the_finished_labels_and_what_is_there_stays(
    made: Path, config: ProcessConfig, tmp_path: Path, runs: list[int]
) -> None:
    clip, engine, out = made / "clip.mkv", config.engine, tmp_path / "out"
    process_files([clip], out, ProcessConfig(engine=engine, **FEW))
    assert sum(runs) == 30
    told: list[str] = []
    for more in MORE:
        before = set(contents(out))
        result = process_files(
            [clip],
            out,
            ProcessConfig(engine=engine, **more),
            on_event=lambda e: told.append(e.why) if isinstance(e, Started) else None,
        )
        assert result.whole
        assert before <= set(contents(out))
        assert [v.problems for v in verify_folder(out)] == [[]]
        assert process_files([clip], out, ProcessConfig(engine=engine, **FEW)).finished[0].again
    assert sum(runs) == 30
    assert told[:2] == ["from its finished labels: png, events", "from its finished labels: overlay, rle"]
    every = ProcessConfig(
        engine=engine,
        areas=True,
        events=True,
        png=True,
        rle=True,
        zarr=ZARR,
        event_share=0.5,
        overlay_opacity=0.9,
    )
    process_files([clip], tmp_path / "at once", every)
    assert contents(out) == contents(tmp_path / "at once")


def test_what_the_labels_do_not_tell_is_computed_and_kept(
    made: Path, config: ProcessConfig, tmp_path: Path, runs: list[int]
) -> None:
    clip, engine, out = made / "clip.mkv", config.engine, tmp_path / "out"
    process_files([clip], out, ProcessConfig(engine=engine, **FEW))
    process_files([clip], out, ProcessConfig(engine=engine, overlay=False, confidence=True))
    assert sum(runs) == 60
    process_files([clip], out, ProcessConfig(engine=engine))
    (out / "clip.areas.csv").unlink()  # and a result that is lost is made again
    process_files([clip], out, ProcessConfig(engine=engine))
    assert sum(runs) == 60
    process_files([clip], tmp_path / "at once", ProcessConfig(engine=engine, areas=True, confidence=True))
    assert contents(out) == contents(tmp_path / "at once")
    data = bytearray((out / "clip.labels.mp4").read_bytes())
    data[len(data) // 2] ^= 1  # of the same length: found when they are to be used
    (out / "clip.labels.mp4").write_bytes(data)
    process_files([clip], out, ProcessConfig(engine=engine, rle=True))
    assert sum(runs) == 120
    assert [v.problems for v in verify_folder(out)] == [[]]


def test_a_job_that_adds_outputs_is_continued_where_it_was_stopped(
    made: Path, config: ProcessConfig, tmp_path: Path, runs: list[int]
) -> None:
    clip, out = made / "clip.mkv", tmp_path / "out"
    few = ProcessConfig(engine=config.engine, overlay=False, segment_frames=6)
    process_files([clip], out, few)

    def stop(event: Event) -> None:
        if isinstance(event, Progressed) and event.done == 20:
            raise KeyboardInterrupt

    more = ProcessConfig(engine=config.engine, segment_frames=6, areas=True)
    with pytest.raises(KeyboardInterrupt):
        process_files([clip], out, more, on_event=stop)
    told: list[str] = []
    process_files([clip], out, few, on_event=lambda e: told.append(getattr(e, "why", "")))
    assert any(why.startswith("continues from frame") for why in told)
    assert sum(runs) == 30
    process_files([clip], tmp_path / "at once", more)
    assert contents(out) == contents(tmp_path / "at once")


def test_a_file_of_somebody_else_is_not_replaced_by_a_new_output(
    made: Path, config: ProcessConfig, tmp_path: Path
) -> None:
    few = ProcessConfig(engine=config.engine, overlay=False)
    process_files([made / "clip.mkv"], tmp_path, few)
    (tmp_path / "clip.areas.csv").write_text("mine")
    more = ProcessConfig(engine=config.engine, overlay=False, areas=True)
    (failed,) = process_files([made / "clip.mkv"], tmp_path, more).failed
    assert "clip.areas.csv: exists already" in str(failed.error)
    assert (tmp_path / "clip.areas.csv").read_text() == "mine"

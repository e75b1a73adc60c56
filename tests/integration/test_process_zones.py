"""--zones: the numbers are NumPy's on the stored masks in every form, however the work was cut."""

from __future__ import annotations

import csv
import errno
import itertools
import json
import threading
import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from streamseg.config import EngineConfig, EventConfig, RefinementConfig, ZoneConfig
from streamseg.config.analytics import Points
from streamseg.config.labels import LabelsConfig
from streamseg.errors import ConfigError, OutputError
from streamseg.recorded import Event, ProcessConfig, Progressed, Started, process_files
from streamseg.recorded.manifest import read_manifest
from streamseg.recorded.settings import ZoneTables
from streamseg.recorded.tables import CsvRows
from streamseg.recorded.tracks import read_labels
from streamseg.recorded.verify import verify_folder
from streamseg.recorded.zone_file import read_zones
from streamseg.recorded.zones import ENDED_WITH_IT
from streamseg.types import Size
from streamseg.wire.rle import decode_labels
from tests.engines import TINY_CLASSES
from tests.integration.daemons import run_daemon
from tests.media import GREEN, GREY, RED, draw_clip, picture, write_video
from tests.ports import free_port
from tests.waiting import LIMIT_S

ZARR, PARQUET = find_spec("zarr") is not None, find_spec("pyarrow") is not None
LEFT = ZoneConfig(polygon=((0, 0), (0.5, 0), (0.5, 1), (0, 1)))
GREEN_LEFT = EventConfig(zone="left", classes=("green",), above=0.5)

Inside = npt.NDArray[np.bool_]


def even_odd(ring: Points, size: Size) -> Inside:
    """The pixels whose centres are inside: each edge that a ray to the left crosses."""
    height, width = size
    y, x = np.mgrid[0:height, 0:width] + 0.5
    y, x = y / height, x / width
    inside = np.zeros(size, bool)
    for (x1, y1), (x2, y2) in zip(ring, [*ring[1:], ring[0]], strict=True):
        if y1 != y2:
            inside ^= ((y1 > y) != (y2 > y)) & (x >= (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    return inside


def near(line: Points, width: float, size: Size) -> Inside:
    """The pixels whose centres are at most half the width away from the line."""
    y, x = np.mgrid[0 : size[0], 0 : size[1]] + 0.5
    found = np.zeros(size, bool)
    for a, b in itertools.pairwise(line):
        ax, ay, bx, by = a[0] * size[1], a[1] * size[0], b[0] * size[1], b[1] * size[0]
        square = (bx - ax) ** 2 + (by - ay) ** 2
        t = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / square, 0, 1) if square else 0 * x
        found |= np.hypot(x - ax - t * (bx - ax), y - ay - t * (by - ay)) <= width * size[0] / 2
    return found


def pixels_of(zone: ZoneConfig, size: Size) -> Inside:
    if zone.line is not None:
        return near(zone.line, zone.width or 0, size)
    assert zone.polygon is not None
    holes = np.zeros(size, bool)
    for hole in zone.holes:
        holes |= even_odd(hole, size)
    return even_odd(zone.polygon, size) & ~holes


def random_zone(random: np.random.Generator) -> ZoneConfig:
    def points(count: int) -> Points:
        return tuple((float(x), float(y)) for x, y in random.random((count, 2)))

    if random.random() < 0.3:
        return ZoneConfig(line=points(int(random.integers(2, 5))), width=float(random.uniform(0.02, 0.3)))
    holes = tuple(points(3) for _ in range(random.integers(0, 3)))
    return ZoneConfig(polygon=points(int(random.integers(3, 9))), holes=holes)


def stored(out: Path, size: Size) -> Iterator[tuple[str, list[Any]]]:
    """The masks in each form that they are stored in."""
    yield "labels", [labels for _, labels in read_labels(out / "clip.labels.mp4")]
    image = pytest.importorskip("PIL.Image")
    yield "png", [np.asarray(image.open(path)) for path in sorted((out / "clip.labels-png").iterdir())]
    lines = [json.loads(line)["segments_info"] for line in (out / "clip.rle.jsonl").read_text().splitlines()]
    yield (
        "rle",
        [decode_labels([(s["id"], s["segmentation"]["counts"]) for s in one], size) for one in lines],
    )
    if ZARR:
        import zarr

        group: Any = zarr.open_group(str(out / "clip.labels.zarr"), mode="r")
        yield "zarr", list(group["labels"][:])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir()}


@pytest.fixture(scope="module")
def config(tiny_engine: Path) -> ProcessConfig:
    return ProcessConfig(
        engine=EngineConfig(name=str(tiny_engine), threads=1, precision="fp32"), overlay=False
    )


def with_zones(config: ProcessConfig, **more: Any) -> ProcessConfig:
    tables = ZoneTables(
        zones={"left": LEFT},
        events={
            "green": GREEN_LEFT,
            "late": EventConfig(zone="left", classes=("green", "blue"), above=0.5, for_s=0.3),
        },
    )
    return msgspec.structs.replace(config, zones=tables, **more)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, config: ProcessConfig) -> Path:
    """30 frames at 10 fps: 1 s half red, 1 s half green, 0.5 s nothing, 0.5 s half green."""
    folder = tmp_path_factory.mktemp("zones")
    colours = [RED] * 10 + [GREEN] * 10 + [GREY] * 5 + [GREEN] * 5
    write_video(
        folder / "clip.mkv",
        [picture((48, 64), 0.5, colour) for colour in colours],
        codec="ffv1",
        pix_fmt="bgr0",
        time_base=Fraction(1, 1000),
        pts=[100 * i for i in range(30)],
    )
    settings = with_zones(config, confidence=True, tables="both" if PARQUET else "csv")
    process_files([folder / "clip.mkv"], folder / "out", settings)
    return folder


@pytest.mark.parametrize("seed", range(3))
def test_every_count_is_numpys_on_the_stored_masks_in_every_form(
    seed: int, config: ProcessConfig, tmp_path: Path
) -> None:
    random = np.random.default_rng(seed)
    size = (int(random.integers(30, 70)), int(random.integers(30, 70)))
    few = random.choice([0, 255], (4, 6, 8, 3)).astype(np.uint8)
    pictures = [cv2.resize(one, size[::-1], interpolation=cv2.INTER_NEAREST) for one in few]
    write_video(tmp_path / "clip.mkv", pictures, codec="ffv1", pix_fmt="bgr0", options={"slices": "4"})
    zones = {f"z{i}": random_zone(random) for i in range(8)}
    settings = msgspec.structs.replace(
        config,
        zones=ZoneTables(zones=zones),
        png=True,
        rle=True,
        zarr=ZARR,
        scale=float(random.choice([1, 0.5, 1.3])),
    )
    (finished,) = process_files([tmp_path / "clip.mkv"], tmp_path / "out", settings).finished
    size = finished.manifest.size
    inside = {"picture": np.ones(size, bool), **{name: pixels_of(zone, size) for name, zone in zones.items()}}
    rows = rows_of(tmp_path / "out/clip.zones.csv")
    assert [(row["seq"], row["zone"]) for row in rows] == [
        (str(n), name) for n in range(4) for name in inside
    ]
    for form, masks in stored(tmp_path / "out", size):
        for row in rows:
            there = masks[int(row["seq"])][inside[row["zone"]]]
            counts = np.bincount(there, minlength=256)
            assert [int(row[f"{name}_pixels"]) for name in TINY_CLASSES] == counts[:4].tolist(), (form, row)
            assert (int(row["pixels"]), int(row["unknown"])) == (there.size, counts[255])
            if there.size:
                shares = [float(row[f"{name}_share"]) for name in TINY_CLASSES]
                assert shares == [n / there.size for n in counts[:4].tolist()]


def test_events_have_their_times(made: Path) -> None:
    rows = rows_of(made / "out/clip.zone-events.csv")
    assert [(r["id"], r["from_s"], r["to_s"], r["duration_s"], r["why"]) for r in rows] == [
        ("green-1", "1.0", "2.0", "1.0", "below"),
        ("late-1", "1.0", "2.3", "1.3", "below"),
        ("green-2", "2.5", "2.9", "0.4", "recording_ended"),
        ("late-2", "2.5", "2.9", "0.4", "recording_ended"),
    ]
    assert {r["classes"] for r in rows} == {"green", "green;blue"}
    lines = [json.loads(line) for line in (made / "out/clip.zone-events.jsonl").read_text().splitlines()]
    green = [(one["state"], one["time_s"], one["seq"]) for one in lines if one["event"] == "green"]
    assert green == [("begin", 1.0, 10), ("end", 2.0, 20), ("begin", 2.5, 25), ("end", 2.9, 29)]
    summary = json.loads((made / "out/clip.summary.json").read_bytes())
    assert summary["zone_events"][0] == {
        "event": "green", "zone": "left", "count": 2, "total_s": 1.4, "longest_s": 1.0
    }  # fmt: skip
    left = summary["zones"][1]
    assert (left["zone"], left["pixels"]) == ("left", 48 * 32)
    assert left["classes"][2] == {
        "id": 2,
        "name": "green",
        "share": 0.5,
        "least_share": 0.0,
        "peak_share": 1.0,
    }


def test_the_mean_confidence_is_that_of_the_confidence_video(made: Path) -> None:
    rows = rows_of(made / "out/clip.zones.csv")[1::2]
    pictures = zip(
        read_labels(made / "out/clip.labels.mp4"), read_labels(made / "out/clip.confidence.mp4"), strict=True
    )
    for row, ((_, labels), (_, confidence)) in zip(rows, pictures, strict=True):
        for i, name in enumerate(TINY_CLASSES):
            there = confidence[:, :32][labels[:, :32] == i]
            mean = "" if not there.size else str(int(there.astype(int).sum()) / (255 * there.size))
            assert row[f"{name}_confidence"] == mean


@pytest.mark.skipif(not PARQUET, reason="pyarrow is not installed; pip install 'streamseg[parquet]'")
def test_parquet_says_what_the_csv_says(made: Path) -> None:
    import pyarrow.csv
    import pyarrow.parquet

    for name in ("zones", "zone-events"):
        columns = pyarrow.parquet.read_table(made / "out" / f"clip.{name}.parquet").to_pydict()
        written = pyarrow.csv.read_csv(made / "out" / f"clip.{name}.csv").to_pydict()
        assert list(columns) == list(written)
        for column, values in columns.items():
            nulls = [value if value != "" else None for value in values]
            assert written[column] == nulls, column


def test_the_chart_shows_the_events_and_is_a_picture(made: Path) -> None:
    chart = cv2.imread(str(made / "out/clip.zones.png"))
    assert chart is not None
    bars = (chart == (40, 110, 220)).all(axis=2)
    rows = np.flatnonzero(bars.sum(axis=1) > 400)
    assert len(rows)  # 1.4 s of 2.9 s


def test_everything_is_in_the_proof(made: Path, tmp_path: Path) -> None:
    assert [v.problems for v in verify_folder(made / "out")] == [[]]
    manifest = read_manifest(made / "out/clip.manifest.json")
    assert {o.file for o in manifest.outputs.values()} | {"clip.manifest.json"} == {
        p.name for p in (made / "out").iterdir()
    }
    table = made / "out/clip.zones.csv"
    text = table.read_text()
    table.write_text(text.replace(",left,", ",lefd,", 1))
    (verdict,) = verify_folder(made / "out")
    table.write_text(text)
    assert verdict.problems == ["clip.zones.csv: has been changed (another SHA-256 than in the manifest)"]


@pytest.mark.parametrize("level", ["off", "best"])
def test_segments_interruption_and_asking_later_change_no_byte(
    level: Any, config: ProcessConfig, tmp_path: Path
) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=20)
    base = msgspec.structs.replace(
        config, segment_frames=3, refinement=RefinementConfig(level=level, every=4), polygons="geojson"
    )
    settings = with_zones(base, areas=True)
    process_files([clip], tmp_path / "whole", settings)
    stop = threading.Event()

    def stop_there(event: Event) -> None:
        if isinstance(event, Progressed) and event.done == 9:
            stop.set()

    process_files([clip], tmp_path / "cut", settings, on_event=stop_there, stop=stop)
    assert not (tmp_path / "cut/clip.manifest.json").exists()
    process_files([clip], tmp_path / "cut", settings)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    process_files([clip], tmp_path / "later", base)
    told: list[str] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Started):
            told.append(event.why)

    process_files([clip], tmp_path / "later", with_zones(config, segment_frames=3, areas=True,
                  refinement=base.refinement), on_event=on_event)  # fmt: skip
    assert told == ["from its finished labels: areas, zones"]
    assert contents(tmp_path / "later") == contents(tmp_path / "whole")


def test_how_a_file_is_cut_into_segments_changes_no_event(config: ProcessConfig, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    colours = ([RED] * 7 + [GREEN] * 6) * 3
    write_video(clip, [picture((48, 64), 1.0, c) for c in colours], options={"g": "4", "sc_threshold": "0"})
    for frames in (3, 256):
        process_files([clip], tmp_path / str(frames), with_zones(config, segment_frames=frames))
    few, many = contents(tmp_path / "3"), contents(tmp_path / "256")
    for name in ("clip.zones.csv", "clip.zone-events.csv", "clip.zone-events.jsonl", "clip.zones.png"):
        assert few[name] == many[name]
    assert few["clip.zone-events.csv"].count(b"\n") == 4


def test_a_disk_that_fills_while_the_tables_are_written_is_told_and_the_same_command_goes_on(
    made: Path, config: ProcessConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = with_zones(config, polygons="both")
    process_files([made / "clip.mkv"], tmp_path / "whole", settings)
    write, left = CsvRows.write, itertools.count()

    def writes(self: CsvRows, row: Sequence[Any]) -> None:
        if next(left) == 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, row)

    monkeypatch.setattr(CsvRows, "write", writes)
    with pytest.raises(OutputError, match="the disk is full; make room"):
        process_files([made / "clip.mkv"], tmp_path / "out", settings)
    monkeypatch.setattr(CsvRows, "write", write)
    assert all(p.name.startswith(".") for p in (tmp_path / "out").iterdir())
    assert not (tmp_path / "out/.clip.segments/results").exists()  # what is half written takes no room
    told: list[Event] = []
    process_files([made / "clip.mkv"], tmp_path / "out", settings, on_event=told.append)
    assert [e.why for e in told if isinstance(e, Started)] == ["continues from frame 30"]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_other_zones_take_the_place_of_the_earlier_ones(
    made: Path, config: ProcessConfig, tmp_path: Path
) -> None:
    process_files([made / "clip.mkv"], tmp_path, with_zones(config))
    other = ZoneTables(zones={"right": ZoneConfig(polygon=((0.5, 0), (1, 0), (1, 1)))})
    process_files([made / "clip.mkv"], tmp_path, msgspec.structs.replace(config, zones=other))
    assert {row["zone"] for row in rows_of(tmp_path / "clip.zones.csv")} == {"picture", "right"}
    assert not (tmp_path / "clip.zone-events.csv").exists()
    (finished,) = process_files([made / "clip.mkv"], tmp_path, config).finished
    assert finished.again  # zones that are there stay
    assert [v.problems for v in verify_folder(tmp_path)] == [[]]


def test_times_are_the_files_own_with_any_rate_and_without_time_stamps(
    config: ProcessConfig, tmp_path: Path
) -> None:
    pictures = [picture((48, 64), 1.0, c) for c in [RED] * 3 + [GREEN] * 3 + [RED] * 2]
    pts = [2000, 2040, 2500, 2900, 3900, 4000, 20000, 20001]
    write_video(
        tmp_path / "rates.mkv", pictures, codec="ffv1", pix_fmt="bgr0", time_base=Fraction(1, 1000), pts=pts
    )
    write_video(
        tmp_path / "bare.mjpeg", pictures, codec="mjpeg", pix_fmt="yuvj444p", container_format="mjpeg"
    )
    out = tmp_path / "out"
    process_files([tmp_path / "rates.mkv", tmp_path / "bare.mjpeg"], out, with_zones(config))
    times = [row["time_s"] for row in rows_of(out / "rates.zones.csv")[::2]]
    assert times == [str(p / 1000) for p in pts]
    events = [(r["id"], r["from_s"], r["to_s"]) for r in rows_of(out / "rates.zone-events.csv")]
    assert events == [("green-1", "2.9", "20.0"), ("late-1", "2.9", "20.001")]
    lines = [json.loads(line) for line in (out / "rates.zone-events.jsonl").read_text().splitlines()]
    silent = [(one["state"], one["time_s"], one["no_data"]) for one in lines if one["event"] == "green"]
    assert silent[1] == ("update", 14.0, True)  # nothing was known for stale_s
    assert [(r["id"], r["from_s"], r["to_s"]) for r in rows_of(out / "bare.zone-events.csv")] == [
        ("green-1", "0.12", "0.24")
    ]


def test_a_folder_of_images_and_a_cut_file_have_their_zones(config: ProcessConfig, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for i, colour in enumerate([RED, GREEN, GREEN, RED]):
        cv2.imwrite(str(tmp_path / f"images/{i}.png"), picture((48, 64), 1.0, colour)[..., ::-1])
    draw_clip(tmp_path / "cut.mkv", frames=20)
    whole = (tmp_path / "cut.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 3 // 4])
    result = process_files([tmp_path / "images", tmp_path / "cut.mkv"], tmp_path / "out", with_zones(config))
    assert [len(rows_of(tmp_path / f"out/{name}.zones.csv")) // 2 for name in ("images", "cut")] == [
        end.manifest.masks for end in result.finished
    ]
    assert [(r["from_s"], r["to_s"]) for r in rows_of(tmp_path / "out/images.zone-events.csv")] == [
        ("0.04", "0.12")
    ]


def test_a_class_that_the_engine_does_not_have_is_told_before_anything_is_made(
    made: Path, config: ProcessConfig, tmp_path: Path
) -> None:
    wrong = ZoneTables(events={"flood": EventConfig(classes=("grean",), above=0.5)})
    with pytest.raises(ConfigError) as raised:
        process_files([made / "clip.mkv"], tmp_path / "out", msgspec.structs.replace(config, zones=wrong))
    assert raised.value.problems == (
        "events.flood.classes: engine tiny has no class 'grean'; did you mean 'green'?",
    )
    assert not (tmp_path / "out").exists()


def test_zones_and_events_see_the_classes_as_they_are_published(
    made: Path, config: ProcessConfig, tmp_path: Path
) -> None:
    engine = msgspec.structs.replace(
        config.engine, labels=LabelsConfig(merge={"colour": ("red", "green")}, only=("colour",))
    )
    zones = ZoneTables(
        zones={"left": LEFT}, events={"coloured": EventConfig(zone="left", classes=("colour",), above=0.5)}
    )
    settings = msgspec.structs.replace(config, engine=engine, zones=zones, polygons="coco")
    process_files([made / "clip.mkv"], tmp_path, settings)
    row = rows_of(tmp_path / "clip.zones.csv")[0]
    assert {key: row[key] for key in ("pixels", "unknown", "colour_pixels")} == {
        "pixels": str(48 * 64), "unknown": str(48 * 31), "colour_pixels": str(48 * 33)
    }  # fmt: skip
    assert "red_share" not in row
    assert [r["why"] for r in rows_of(tmp_path / "clip.zone-events.csv")] == ["recording_ended"]
    (finished,) = process_files([made / "clip.mkv"], tmp_path, settings).finished
    assert finished.again
    unknown = msgspec.structs.replace(
        settings, zones=ZoneTables(events={"red": EventConfig(classes=("red",), above=1.0)})
    )
    with pytest.raises(
        ConfigError, match=r"events\.red\.classes: engine tiny has no class 'red'; classes: colour"
    ):
        process_files([made / "clip.mkv"], tmp_path, unknown)


Counted = list[tuple[str, int, dict[str, tuple[int, float]]]]
"""Of each zone its name, its pixels, and pixels and share of the classes that are there."""


def recorded_counts(rows: list[dict[str, str]]) -> dict[int, Counted]:
    """What the table says of each frame."""
    found: dict[int, Counted] = {}
    for row in rows:
        there = {
            name: (int(row[f"{name}_pixels"]), float(row[f"{name}_share"]))
            for name in TINY_CLASSES
            if row[f"{name}_pixels"] != "0"
        }
        found.setdefault(int(row["seq"]), []).append((row["zone"], int(row["pixels"]), there))
    return found


def live_counts(document: dict[str, Any]) -> Counted:
    return [
        (one["zone"], one["pixels"], {c["name"]: (c["pixels"], c["share"]) for c in one["classes"]})
        for one in document["zones"]
    ]


SAME = ("event", "state", "seq", "value", "peak")


def test_a_live_stream_counts_the_same_in_the_same_frames(
    tiny_engine: Path, config: ProcessConfig, tmp_path: Path
) -> None:
    """The file is played at its own pace, 0.6 s each time, until it came whole once; its events, too."""
    zmq = pytest.importorskip("zmq")
    colours = [RED] * 10 + [GREEN] * 10 + [GREY] * 5 + [GREEN] * 5
    clip = tmp_path / "clip.mkv"
    write_video(
        clip,
        [picture((48, 64), 0.2 + i / 50, colour) for i, colour in enumerate(colours)],
        codec="ffv1",
        pix_fmt="bgr0",
        time_base=Fraction(1, 1000),
        pts=[20 * i for i in range(30)],
    )
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    (tmp_path / "live.toml").write_text(
        f"""
[engine]
name = "{tiny_engine}"
threads = 1
precision = "fp32"
[publish]
endpoint = "{endpoint}"
[streams.gate]
source = "{clip}"
realtime = true
loop = true
[streams.gate.zones.left]
polygon = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]
[streams.gate.zones.edge]
line = [[0.4, 0], [0.6, 1]]
width = 0.3
[streams.gate.events.green]
zone = "left"
classes = ["green"]
above = 0.5
[streams.gate.events.late]
classes = ["green"]
above = 0.2
for_s = 0.07
"""
    )
    zones = read_zones(f"{tmp_path}/live.toml")
    process_files([clip], tmp_path / "out", msgspec.structs.replace(config, zones=zones))
    wanted = recorded_counts(rows_of(tmp_path / "out/clip.zones.csv"))
    lines = [json.loads(line) for line in (tmp_path / "out/clip.zone-events.jsonl").read_text().splitlines()]
    told = [tuple(one[key] for key in SAME) for one in lines if one["why"] != ENDED_WITH_IT]
    assert [(event, state, seq) for event, state, seq, *_ in told] == [
        ("green", "begin", 10),
        ("late", "begin", 14),
        ("green", "end", 20),
        ("late", "end", 24),
        ("green", "begin", 25),
        ("late", "begin", 29),
    ]
    with run_daemon(tmp_path / "live.toml"), zmq.Context() as context, context.socket(zmq.SUB) as socket:
        for kind in (b"zones", b"event"):
            socket.subscribe(kind + b"/gate/")
        socket.connect(endpoint)
        came: dict[int, set[int]] = {}
        events: dict[int, list[Any]] = {}
        deadline = time.monotonic() + LIMIT_S
        while not any(len(came.get(epoch - 1, ())) == 30 for epoch in came):
            assert time.monotonic() < deadline, came
            assert socket.poll(1000 * LIMIT_S)
            document = json.loads(socket.recv_multipart()[1])
            if document["kind"] == "event":
                events.setdefault(document["epoch"], []).append(tuple(document[key] for key in SAME))
                continue
            assert live_counts(document) == wanted[document["seq"]]
            came.setdefault(document["epoch"], set()).add(document["seq"])
    whole = next(epoch for epoch, seqs in came.items() if len(seqs) == 30)
    assert [one for one in events[whole] if one[2] >= 10] == told  # what was open before ends before

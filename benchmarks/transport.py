"""What encoding and sending masks costs: encodings on label maps, and the latency to a subscriber."""

from __future__ import annotations

import importlib
import importlib.util
import json
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import get_args

import click
import cv2
import msgspec
import numpy as np
import zstandard

from benchmarks import print_json, run_command
from benchmarks.subscriber import start
from streamseg.bench.summary import Machine, Spread, spread_of, this_machine
from streamseg.cli.bench import show_table
from streamseg.cli.settings import as_json
from streamseg.config import PublishConfig
from streamseg.errors import UsageError
from streamseg.publish import Publisher
from streamseg.types import U8, Mask, Size, Stamp
from streamseg.wire import Encoding, decode_array, encode_array
from streamseg.wire.rle import decode_labels, encode_labels
from tools.demo import draw_scene

FULL_HD: Size = (1080, 1920)
MAPS, REPEATS = 17, 7
MASKS, FPS = 200, 60.0  # through each transport


class EncodingRow(msgspec.Struct, frozen=True, kw_only=True):
    """One way to pack label maps of one size."""

    encoding: str
    ours: bool  # part of the protocol; the others are there to compare with
    size: Size
    encode: Spread
    decode: Spread
    bytes: int  # the mean
    encode_ratio: float  # time against zstd's, as we use it
    decode_ratio: float
    bytes_ratio: float


class LatencyRow(msgspec.Struct, frozen=True, kw_only=True):
    """Masks over one transport, to a subscriber in another process."""

    transport: str
    encoding: str
    size: Size
    bytes: int
    latency: Spread  # from just before sending until the subscriber has the labels


class TransportResult(msgspec.Struct, frozen=True, kw_only=True):
    """The tables of `python -m benchmarks.transport`."""

    labels: str
    encodings: list[EncodingRow]
    latencies: list[LatencyRow]
    machine: Machine


def bench_transport(labels_folder: Path | None) -> TransportResult:
    """Measure on label maps of a folder of 8-bit pictures, or of the demo street when there is none.

    The encodings are timed in turn, over and over, so that their ratios hold on a busy machine too.
    """
    labels = _folder_labels(labels_folder, MAPS) if labels_folder else _demo_labels(MAPS)
    large = [cv2.resize(one, FULL_HD[::-1], interpolation=cv2.INTER_NEAREST) for one in labels[:6]]
    large_u8 = [np.ascontiguousarray(one, np.uint8) for one in large]
    encodings = _encoding_rows(labels) + _encoding_rows(large_u8)
    latencies = []
    for transport in ("tcp", "ipc"):
        for encoding, some in (("zstd", labels), ("zstd", large_u8), ("raw", large_u8)):
            latencies.append(_latency_row(transport, encoding, some))  # type: ignore[arg-type]
    return TransportResult(
        labels=str(labels_folder or "demo:"),
        encodings=encodings,
        latencies=latencies,
        machine=this_machine("pyzmq", "zstandard", "opencv-python-headless", "numpy"),
    )


Codec = tuple[Callable[[U8], bytes], Callable[[bytes], object]]


def _codecs(size: Size) -> dict[str, Codec]:
    """Our encodings, and general compressors to compare them with, those that are installed."""
    ours: tuple[Encoding, ...] = get_args(Encoding)
    found: dict[str, Codec] = {
        name: (partial(encode_array, encoding=name), partial(decode_array, encoding=name, size=size))
        for name in ours
    }
    found["coco-rle"] = (
        lambda labels: json.dumps([(value, text) for value, _, text in encode_labels(labels)]).encode(),
        lambda data: decode_labels(json.loads(data), size),
    )
    pixels = size[0] * size[1]
    for level in (-5, 3):
        found[f"zstd level {level}"] = (
            lambda labels, level=level: zstandard.ZstdCompressor(level=level).compress(labels.data),  # type: ignore[misc]
            lambda data: zstandard.ZstdDecompressor().decompress(data, max_output_size=pixels),
        )
    found["zlib level 1"] = (lambda labels: zlib.compress(labels.data, 1), zlib.decompress)
    if importlib.util.find_spec("lz4") is not None:
        frame, block = importlib.import_module("lz4.frame"), importlib.import_module("lz4.block")
        found["lz4 frame"] = (lambda labels: bytes(frame.compress(labels.data)), frame.decompress)
        found["lz4 block"] = (
            lambda labels: bytes(block.compress(labels.data, store_size=False)),
            lambda data: block.decompress(data, uncompressed_size=pixels),
        )
    return found


def _encoding_rows(labels: Sequence[U8]) -> list[EncodingRow]:
    size = (labels[0].shape[0], labels[0].shape[1])
    codecs = _codecs(size)
    packing: dict[str, list[float]] = {name: [] for name in codecs}
    unpacking: dict[str, list[float]] = {name: [] for name in codecs}
    sizes: dict[str, list[int]] = {name: [] for name in codecs}
    for _ in range(REPEATS):
        for one in labels:
            for name, (encode, decode) in codecs.items():
                begun = time.perf_counter()
                packed = encode(one)
                between = time.perf_counter()
                decode(packed)
                packing[name].append((between - begun) * 1000)
                unpacking[name].append((time.perf_counter() - between) * 1000)
                sizes[name].append(len(packed))
    base = "zstd"
    return [
        EncodingRow(
            encoding=name,
            ours=name in get_args(Encoding) or name == "coco-rle",
            size=size,
            encode=spread_of(packing[name]),
            decode=spread_of(unpacking[name]),
            bytes=round(float(np.mean(sizes[name]))),
            encode_ratio=_ratio(packing[name], packing[base]),
            decode_ratio=_ratio(unpacking[name], unpacking[base]),
            bytes_ratio=round(sum(sizes[name]) / sum(sizes[base]), 2),
        )
        for name in codecs
    ]


def _latency_row(transport: str, encoding: Encoding, labels: Sequence[U8]) -> LatencyRow:
    with tempfile.TemporaryDirectory() as folder:
        endpoint = "tcp://127.0.0.1:*" if transport == "tcp" else f"ipc://{folder}/masks"
        with (
            Publisher(PublishConfig(endpoint=endpoint, encoding=encoding)) as publisher,
            start("delays", publisher.endpoint, MASKS) as reader,
        ):
            try:
                publisher.wait_wanted("mask", "bench", 60)
                seq, due = 0, time.monotonic()
                while reader.poll() is None:
                    publisher.put(_mask(seq, labels[seq % len(labels)]))
                    seq, due = seq + 1, max(due + 1 / FPS, time.monotonic() - 0.1)
                    time.sleep(max(0.0, due - time.monotonic()))
            finally:
                reader.kill()
            out = reader.stdout.read() if reader.stdout else b""
    return LatencyRow(
        transport=transport,
        encoding=encoding,
        size=(labels[0].shape[0], labels[0].shape[1]),
        bytes=round(float(np.mean([len(encode_array(one, encoding)) for one in labels]))),
        latency=spread_of(json.loads(out or b"[]")),
    )


def _mask(seq: int, labels: U8) -> Mask:
    stamp = Stamp("bench", 0, seq, seq, Fraction(1, 60), time.time_ns(), "arrival")
    return Mask(stamp, labels, label_set="bench", engine="none")


def _demo_labels(count: int) -> list[U8]:
    return [np.ascontiguousarray(draw_scene(k * 0.5)[1], np.uint8) for k in range(count)]


def _folder_labels(folder: Path, count: int) -> list[U8]:
    paths = sorted(folder.iterdir()) if folder.is_dir() else []
    if not paths:
        raise UsageError(f"{folder}: must be a folder of label maps (8-bit pictures)")
    found = []
    for path in paths[:: max(1, len(paths) // count)][:count]:
        picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if picture is None:
            raise UsageError(f"{path}: is not an image")
        found.append(np.ascontiguousarray(picture, np.uint8))
    return found


def _ratio(times: Sequence[float], base: Sequence[float]) -> float:
    """Of the best time of each map, since a busy machine only ever adds to a time."""
    best, best_base = (float(np.reshape(t, (REPEATS, -1)).min(0).sum()) for t in (times, base))
    return round(best / best_base, 2)


@click.command()
@click.option(
    "--labels", type=click.Path(path_type=Path), help="A folder of label maps (PNG); unset: the demo clip's."
)
@as_json
def command(labels: Path | None, as_json: bool) -> None:
    """Compare encodings, and measure the latency from publishing to a subscriber in another process."""
    result = bench_transport(labels)
    if as_json:
        return print_json(result)
    click.echo(f"label maps: {result.labels}\n")
    show_table(
        ("encoding", "size", "bytes", "encode p50 ms", "decode p50 ms"),
        (
            (
                row.encoding if row.ours else f"({row.encoding})", f"{row.size[1]}x{row.size[0]}",
                f"{row.bytes:,}", f"{row.encode.p50_ms:.2f}", f"{row.decode.p50_ms:.2f}",
            )
            for row in result.encodings
        ),
    )  # fmt: skip
    click.echo()
    show_table(
        ("transport", "encoding", "size", "bytes", "p50 ms", "p95 ms", "p99 ms"),
        (
            (
                way.transport, way.encoding, f"{way.size[1]}x{way.size[0]}", f"{way.bytes:,}",
                f"{way.latency.p50_ms:.2f}", f"{way.latency.p95_ms:.2f}", f"{way.latency.p99_ms:.2f}",
            )
            for way in result.latencies
        ),
    )  # fmt: skip


if __name__ == "__main__":
    run_command(command)

"""Stages pipeline and density: the whole daemon, and how many live streams it serves."""

from __future__ import annotations

import os
import time
from typing import Any

from tools.device.common import DRY, Part, clip, engine_folder, small


def pipeline(part: Part) -> None:
    from streamseg.bench.pipeline import bench_pipeline
    from streamseg.config import Config, build_settings

    slim: dict[str, Any] = {"name": "camvid-slim", "backend": "torch", "precision": "bf16", "max_batch": 8}
    if DRY:
        slim |= {"precision": "fp32", "input_size": (96, 128), "max_batch": 2}
    largefov = {**slim, "input_size": (64, 64) if DRY else (504, 504)}
    forms: list[tuple[str, int, dict[str, Any], dict[str, Any]]] = [
        ("one file", 1, slim, {}),
        ("one camera", 1, slim, {"realtime": True}),
        ("eight files", 8, slim, {}),
        ("eight files, two replicas", 8, {**slim, "replicas": 2}, {}),
        ("LargeFOV, one camera", 1, largefov, {"realtime": True}),
        ("LargeFOV, four files", 4, largefov, {}),
        ("one file, NVDEC", 1, slim, {"hwaccel": "cuda"}),
        ("eight files, NVDEC", 8, slim, {"hwaccel": "cuda"}),
        ("eight files, two replicas, NVDEC", 8, {**slim, "replicas": 2}, {"hwaccel": "cuda"}),
    ]
    for name, count, engine, stream in forms[: 2 if DRY else None]:
        with part.step(name):
            if engine is largefov:
                engine = {**largefov, "name": engine_folder("deeplab-v1-largefov")}
            tree = {
                "streams": {f"s{i}": {"source": clip(), "loop": True, **stream} for i in range(count)},
                "engine": engine,
                "publish": {"endpoint": "tcp://127.0.0.1:0", "queue": 10000},
            }
            found = bench_pipeline(build_settings(Config, tree), small(4, 1), small(2, 1))
            row: dict[str, Any] = {
                "what": name,
                "engine": found.engine,
                "masks_s": found.fps,
                "skipped": found.skipped,
                "lost": found.lost,
            }
            row["age_p50_p95_p99_ms"] = [found.latency.p50_ms, found.latency.p95_ms, found.latency.p99_ms]
            row["stages_p50_ms"] = {key: spread.p50_ms for key, spread in found.stages.items()}
            part.add("pipeline", row)


def density(part: Part) -> None:
    """Live streams at 8 fps: twice as many while all are held, then half way back."""
    from streamseg.bench.streams import bench_streams
    from streamseg.config import Config, build_settings

    engine = {"name": "camvid-slim", "backend": "torch", "precision": "bf16", "max_batch": 8}
    if DRY:
        engine |= {"precision": "fp32", "input_size": (96, 128)}
    until = time.monotonic() + float(os.environ.get("STAGE_S", "60")) - 20
    count, held = small(96, 2), 0
    while time.monotonic() < until:
        with part.step(f"{count} streams"):
            stream = {"source": clip(), "realtime": True, "loop": True, "max_fps": 8.0, "max_age_ms": 250.0}
            tree = {
                "streams": {f"s{i:03}": stream for i in range(count)},
                "engine": engine,
                "publish": {"endpoint": "tcp://127.0.0.1:0"},
            }
            found = bench_streams(build_settings(Config, tree), small(6, 1), 8.0, small(5, 1))
            row: dict[str, Any] = {
                "streams": count,
                "held": found.held,
                "masks_s": found.masks_per_s,
                "capacity": found.capacity,
            }
            row |= {"cpu_ms_a_mask": found.cpu_ms_a_mask, "cpu_share": found.cpu_share, "drops": found.drops}
            row["stages_p50_ms"] = {key: spread.p50_ms for key, spread in found.stages.items()}
            part.add("density", row)
            whole = found.held == count
            held = max(held, count if whole else 0)
            count = count * 2 if whole else (count + held) // 2 if held else count // 2
        if DRY or count < 2 or count == held or part.data.get("failed"):
            break

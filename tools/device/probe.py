"""One stage: python -m tools.device.probe STAGE; device.sh runs them all.

Each stage writes PARTS/STAGE.json after every figure, so a stage that is cut off keeps what it measured;
`collect` makes gpu.json and gpu.md of them. DEVICE_DRY=1 runs each stage on the CPU with very little to do: a
test of this tool, not a measurement.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from typing import Any

from tools.device.common import DRY, OUT, PARTS, Part, no_gpu
from tools.device.crf import crf, tiny_crf
from tools.device.engines import aoti, aoti_build, engines, knobs, prep
from tools.device.facts import facts
from tools.device.route import density, pipeline
from tools.device.training import fulltrain, train

ORDER = ("facts", "engines", "tests", "crf", "pipeline", "density", "aoti", "knobs", "train", "fulltrain")


def tests(part: Part) -> None:
    """Reads the JUnit files that device.sh had pytest write."""
    import xml.etree.ElementTree as ET

    skipped: dict[str, int] = {}
    for path in sorted(PARTS.glob("tests-*.xml")):
        for suite in ET.parse(path).getroot().iter("testsuite"):
            row = {key: suite.get(key) for key in ("tests", "failures", "errors", "skipped", "time")}
            part.add("suites", {"suite": path.stem[6:], **row})
        for one in ET.parse(path).getroot().iter("testcase"):
            for kind in ("failure", "error"):
                for found in one.findall(kind):
                    text = " ".join((found.get("message") or "").split())[:300]
                    part.add(kind, {"test": one.get("name"), "text": text})
            for found in one.findall("skipped"):
                reason = " ".join((found.get("message") or "").split())[:160]
                skipped[reason] = skipped.get(reason, 0) + 1
    for reason, count in skipped.items():
        part.add("skipped", {"tests": count, "reason": reason})
    for path in sorted(PARTS.glob("tests-*.txt")):
        if not path.with_suffix(".xml").exists():
            part.add("cut", {"suite": path.stem[6:], "end": path.read_text(errors="replace")[-600:]})


def collect() -> None:
    whole = {}
    for path in PARTS.glob("*.json"):
        with contextlib.suppress(ValueError):
            whole[path.stem] = json.loads(path.read_text())
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "gpu.json").write_text(json.dumps(whole, indent=1))
    lines = []
    for name in (*ORDER, *sorted(set(whole) - set(ORDER))):
        if name not in whole:
            continue
        lines += [f"## {name}", ""]
        for key, value in whole[name].items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                columns = list(dict.fromkeys(column for row in value for column in row))
                lines += [f"{key}:", "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
                lines += [
                    "| " + " | ".join(_cell(row.get(column, "")) for column in columns) + " |"
                    for row in value
                ]
                lines.append("")
            else:
                lines.append(f"- {key}: {_cell(value)}")
        lines.append("")
    (OUT / "gpu.md").write_text("\n".join(lines))


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value).replace("|", "/").replace("\n", " ")


STAGES = {
    "facts": facts, "engines": engines, "knobs": knobs, "crf": crf, "pipeline": pipeline, "density": density,
    "aoti": aoti, "train": train, "tests": tests, "fulltrain": fulltrain,
}  # fmt: skip


def verdict(stages: list[str]) -> int:
    """Print a line for all of these stages that failed, was cut off or has no figures; their number.

    What was left out has a line, too, which says what it wants; it has not failed.
    """
    left_out = []
    lines = [f"no GPU: {problem}"] if (problem := no_gpu()) else []
    with contextlib.suppress(OSError):
        lines += (PARTS / "failed.txt").read_text().splitlines()
    for name in stages:
        if name not in STAGES:
            continue
        try:
            data = json.loads((PARTS / f"{name}.json").read_text())
        except (OSError, ValueError):
            lines.append(f"{name}: has no figures: see log.txt")
            continue
        if "left_out" in data:
            left_out.append(f"{name}: {data['left_out']}")
        lines += [f"{name}: {row['what']}: {row['error']} ({row['where']})" for row in data.get("failed", [])]
        lines += [f"{name}: {row['test']}: {row['text']}" for row in data.get("failure", [])]
        lines += [f"{name}: {row['test']}: {row['text']}" for row in data.get("error", [])]
        lines += [f"{name}: {row['suite']} was cut off: {row['end'][-300:]}" for row in data.get("cut", [])]
    for line in lines:
        print(f"FAILED {' '.join(line.split())}")
    for line in left_out:
        print(f"LEFT OUT {line}")
    return len(lines)


def stand_in(stage: str) -> None:
    """A dry run: streams and graphs of the CPU, and Triton's interpreter, so that the same lines run."""
    import types

    from streamseg.crf import gpu_graph
    from tests.cuda_standin import Graph, put_in_place_of_cuda

    patch: Any = types.SimpleNamespace(setattr=setattr)
    put_in_place_of_cuda(patch)
    gpu_graph.is_on_gpu = lambda tensor: True
    if stage == "crf":
        patch.setattr(
            Graph, "replay", lambda graph: None
        )  # what Triton's interpreter does cannot be done again


def main() -> None:
    name = sys.argv[1]
    if name == "collect":
        return collect()
    if name == "verdict":
        sys.exit(verdict(sys.argv[2:]) > 0)
    if DRY:
        stand_in(name)
    if name == "prep":
        return prep(sys.argv[2])
    if name == "aoti-build":
        return aoti_build(sys.argv[2])
    if name == "tiny-crf":
        return tiny_crf()
    part = Part(name)
    begun = time.monotonic()
    if name != "facts" and (problem := no_gpu()):
        part.put("left_out", problem)
        print(f"{name}: left out: {problem}", flush=True)
        return None
    if name == "facts" and (problem := no_gpu()):
        part.put("no_gpu", problem)
    with part.step(name):
        STAGES[name](part)
    part.put("stage_s", round(time.monotonic() - begun, 1))
    return None


if __name__ == "__main__":
    main()

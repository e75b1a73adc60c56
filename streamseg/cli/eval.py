"""streamseg eval"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from streamseg.cli.fetching import fetch_missing
from streamseg.cli.settings import engine_option, options_from
from streamseg.config import CrfConfig, EngineConfig, PrecisionSetting, RefinementConfig
from streamseg.errors import UsageError
from streamseg.runtime.terminal import echo, echo_document

if TYPE_CHECKING:
    from streamseg.evaluation.calibration import CalibrationReport
    from streamseg.evaluation.metrics import Scores
    from streamseg.evaluation.refinement import RefinementReport
    from streamseg.evaluation.tune import TuneReport


@click.command()
@engine_option
@click.option("--data", type=click.Path(path_type=Path), help="A folder with images/ and labels/.")
@click.option(
    "--precision",
    type=click.Choice(get_args(PrecisionSetting)),
    default="fp32",
    help="Arithmetic of the network; auto: what run and process take.",
)
@options_from(EngineConfig, "threads")
@click.option("--crf", is_flag=True, help="Score the CRF beside the network alone, near boundaries too.")
@click.option(
    "--sequence", is_flag=True, help="The images are successive frames: score CRF and fusion over time."
)
@click.option(
    "--video",
    type=click.Path(path_type=Path),
    help="With --data: take the sequence's frames from this file, in order. Without: how steady and sure "
    "masks of it are, which needs no labels.",
)
@click.option("--teacher", help="With --video alone: an engine to agree with.")
@click.option("--confidence", is_flag=True, help="Score the confidence: is 0.8 right in 80 % of the pixels?")
@click.option("--every", default=RefinementConfig().every, help="A keyframe every N frames of the sequence.")
@click.option("--delay", default=2, help="Frames until a keyframe's refinement arrives.")
@click.option("--preset", default=CrfConfig().preset, help="The engine's own CRF parameters, or a preset's.")
@options_from(CrfConfig, "quality", "backend")
@click.option(
    "--tune-crf", is_flag=True, help="Search CRF parameters on DATA (training images) and keep them."
)
@click.option("--images", default=40, help="Images that --tune-crf uses, spread evenly over DATA.")
@click.option(
    "--plot", type=click.Path(path_type=Path), help="Draw the scores near boundaries into this PNG."
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
def command(
    name: str,
    data: Path | None,
    precision: str,
    threads: int,
    crf: bool,
    sequence: bool,
    video: Path | None,
    teacher: str | None,
    confidence: bool,
    every: int,
    delay: int,
    preset: str,
    quality: str,
    backend: str,
    tune_crf: bool,
    images: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Score an engine on images with ground truth, in per cent: mIoU, pixel accuracy, IoU of each class.

    With --crf or --sequence also mIoU in bands round boundaries, agreement of contours, and over time. On a
    --video without --data, what can be said without ground truth.
    """
    if every < 1 or delay < 0 or images < 1:
        raise UsageError("--every and --images must be at least 1, --delay at least 0")
    config = EngineConfig(name=name, precision=precision, threads=threads)  # type: ignore[arg-type]
    crf_config = CrfConfig(preset=preset, quality=quality, backend=backend)  # type: ignore[arg-type]
    if data is None:
        if video is None:
            raise UsageError("--data: is missing; without labels there is --video alone")
        if crf or sequence or plot or tune_crf or confidence:
            raise UsageError("--crf, --sequence, --plot, --tune-crf and --confidence need labels: add --data")
        other = None if teacher is None else EngineConfig(name=teacher, precision="fp32", threads=threads)
        fetch_missing(name, *([teacher] if teacher else []))
        _video(config, crf_config, str(video), other, every, delay, as_json)
        return
    if teacher is not None:
        raise UsageError("--teacher: is for --video without --data")
    fetch_missing(name)
    if confidence:
        _confidence(config, data, as_json)
    elif tune_crf:
        _tune(config, crf_config, data, images, as_json)
    elif crf or sequence or video or plot:
        options = {"every": every, "delay": delay, "video": video} if sequence or video else None
        _refinement(config, crf_config, data, options, plot, as_json)
    else:
        _plain(config, data, as_json)


def _plain(config: EngineConfig, data: Path, as_json: bool) -> None:
    from streamseg.cli.progress import Bar
    from streamseg.evaluation.engines import evaluate_engine
    from streamseg.evaluation.metrics import shown

    with Bar("eval") as bar:
        scores: Scores = evaluate_engine(config, data, bar.at)
    if as_json:
        echo_document(scores.to_json())
        return
    for label, iou in scores.per_class.items():
        echo(f"{label:16} {shown(iou, 6)}")
    echo(f"{'mIoU':16} {shown(scores.miou, 6)}", f"{'pixel accuracy':16} {shown(scores.pixel_accuracy, 6)}")


def _video(
    config: EngineConfig,
    crf: CrfConfig,
    video: str,
    other: EngineConfig | None,
    every: int,
    delay: int,
    as_json: bool,
) -> None:
    from streamseg.cli.progress import Bar
    from streamseg.evaluation.metrics import shown
    from streamseg.evaluation.unlabelled import evaluate_video

    with Bar("eval") as bar:
        report = evaluate_video(config, crf, video, other, every, delay, bar.at)
    if as_json:
        echo_document(report.to_json())
        return
    echo(f"{report.engine}, {report.frames} frames, in %", f"{'':14}{'consistency':>12}{'flicker':>9}")
    for name, scores in (("network alone", report.raw), ("fused", report.fused)):
        if scores is not None:
            echo(f"{name:14}{shown(scores.consistency, 12)}{shown(scores.flicker, 9)}")
    echo(f"confidence {shown(report.confidence)}, unsure pixels {shown(report.unsure)}")
    if (agreed := report.agreement) is not None:
        echo(
            f"as {agreed.engine}: {shown(agreed.pixels)} of the pixels, mIoU {shown(agreed.miou)}, of "
            f"{len(agreed.classes)} classes"
        )


def _confidence(config: EngineConfig, data: Path, as_json: bool) -> None:
    from streamseg.cli.progress import Bar
    from streamseg.evaluation.calibration import measure_calibration

    with Bar("eval") as bar:
        report = measure_calibration(config, data, bar.at)
    if as_json:
        echo_document(report.to_json())
    else:
        echo(*calibration_lines(report))


def calibration_lines(report: CalibrationReport) -> list[str]:
    """The report for people."""
    rows = [("now", report.now), ("without", report.plain), ("best", report.best)]
    return [
        f"right labels {report.accuracy:.2f} % of {report.pixels} pixels in {report.images} images",
        f"{'':8}{'temperature':>12}{'confidence':>12}{'ECE':>7}",
        *(f"{name:8}{r.temperature:12.3f}{r.confidence:12.2f}{r.ece:7.2f}" for name, r in rows),
    ]


def _refinement(
    config: EngineConfig,
    crf: CrfConfig,
    data: Path,
    options: dict[str, Any] | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    from streamseg.cli.progress import Bar
    from streamseg.evaluation.plots import plot_refinement
    from streamseg.evaluation.refinement import SequenceOptions, evaluate_refinement

    sequence = None if options is None else SequenceOptions(**options)
    with Bar("eval") as bar:
        report = evaluate_refinement(config, crf, data, sequence, bar.at)
    if as_json:
        echo_document(report.to_json())
    else:
        echo(*_table(report))
    if plot is not None:
        plot_refinement(plot, report)


def _table(report: RefinementReport) -> list[str]:
    from streamseg.evaluation.metrics import shown

    widths = list(next(iter(report.parts["all"].values())).trimap)
    lines = []
    for part, variants in report.parts.items():
        bands = "".join(f"{f'{w} px':>7}" for w in widths)
        lines.append(f"{part:14}{'mIoU':>7}{bands}{'cont. F':>9}{'consist.':>9}{'flicker':>9}")
        for variant, s in variants.items():
            values = "".join(shown(s.trimap[w], 7) for w in widths)
            time = f"{shown(s.consistency, 9)}{shown(s.flicker, 9)}" if report.every else ""
            lines.append(f"  {variant:12}{shown(s.miou, 7)}{values}{shown(s.boundary_f, 9)}{time}")
    return lines


def _tune(config: EngineConfig, crf: CrfConfig, data: Path, images: int, as_json: bool) -> None:
    from streamseg.cli.progress import Bar
    from streamseg.evaluation.tune import tune_crf, write_crf
    from streamseg.inference.spec import find_engine

    folder, _ = find_engine(config.name)
    with Bar("tune") as bar:
        report = tune_crf(config, data, images, crf.quality, bar.at)
    better = report.kept.merit > report.raw.merit
    lines = [report.to_json()] if as_json else _tuned(report)
    echo(*lines)  # before it is written: the search took minutes
    if better:
        write_crf(folder, report.kept.params, report.thin)
    if not as_json:
        echo(f"{folder}: " + ("written" if better else "unchanged; no better parameters found"))


def _tuned(report: TuneReport) -> list[str]:
    from streamseg.evaluation.metrics import shown

    trials = (("without", report.raw), ("best", report.best), ("thin kept", report.kept))
    lines = [f"{what:10} mIoU {shown(t.miou, 6)}   2 px {shown(t.trimap, 6)}" for what, t in trials]
    return [*lines, str(report.kept.params), f"thin: {', '.join(report.thin) or 'none'}"]

"""Every CRF quality beside the reference implementation, interleaved in one run."""

from __future__ import annotations

import importlib.util
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import cv2
import msgspec
import numpy as np

from benchmarks import or_dash, print_json, run_command
from streamseg import crf
from streamseg.bench.summary import Machine, this_machine
from streamseg.cli.bench import show_table
from streamseg.cli.settings import as_json
from streamseg.config import EngineConfig
from streamseg.crf.params import QUALITIES, CrfParams, Job, make_job
from streamseg.errors import UsageError
from streamseg.evaluation.dataset import LabelledFolder
from streamseg.evaluation.metrics import confusion_matrix, scores_of
from streamseg.inference.infer import input_size
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import make_batch
from streamseg.types import F32, U8, Size


class CrfRow(msgspec.Struct, frozen=True, kw_only=True):
    """One quality on one number of threads."""

    quality: str  # or "pydensecrf"
    preset: str
    threads: int
    ms: float  # the least of all repeats, mean over the pictures
    factor: float | None  # how many times faster than the reference in this run
    cpu_factor: float | None  # the same in CPU time: for one thread, what a busy machine leaves of it
    agreement: float | None  # share of pixels with the reference's label, in per cent
    mean_difference: float | None  # mean |ΔQ| from the reference
    miou: float | None  # in per cent, where labels were given


class CrfResult(msgspec.Struct, frozen=True, kw_only=True):
    """The table of `python -m benchmarks.crf`."""

    size: tuple[int, int]
    classes: int
    pictures: int
    rows: list[CrfRow]
    machine: Machine


def bench_crf(
    logits: Sequence[F32],
    images: Sequence[U8],
    *,
    presets: Sequence[str] = ("deeplab-largefov", "deeplab-v2-resnet101"),
    threads: Sequence[int] = (1, 2),
    repeats: int = 5,
    labels: Sequence[U8] | None = None,
) -> CrfResult:
    """Time all qualities on the same pictures, in turn, so that ratios hold on a machine that is not idle.

    logits: (C, h, w) each, at the picture's size or a network's own stride; every quality gets them as they
    are, the reference after the same bilinear scaling, which is not timed. images: (H, W, 3) uint8, all of
    one size. labels: (H, W) uint8 with 255 for no label. One workspace per form, as in the daemon, so that
    the first call, which allocates, does not count. Agreement is with the reference, or with `exact` where
    pydensecrf is not installed (then there is no factor).
    """
    if not logits or len(logits) != len(images) or (labels is not None and len(labels) != len(images)):
        raise UsageError("logits, images and labels must be equally many, at least one")
    rows: list[CrfRow] = []
    for name in presets:
        rows += _rows_of(name, logits, images, threads, repeats, labels)
    height, width = images[0].shape[:2]
    packages = ("numpy", *(("pydensecrf2",) if reference_available() else ()))
    return CrfResult(
        size=(height, width),
        classes=int(logits[0].shape[0]),
        pictures=len(images),
        rows=rows,
        machine=this_machine(*packages),
    )


def _rows_of(
    name: str,
    logits: Sequence[F32],
    images: Sequence[U8],
    threads: Sequence[int],
    repeats: int,
    labels: Sequence[U8] | None,
) -> list[CrfRow]:
    params = crf.preset(name)
    forms: dict[tuple[str, int], Callable[[int], F32]] = {}
    if reference_available():
        forms["pydensecrf", 1] = _reference(logits, images, params)
    for quality in QUALITIES:
        for count in threads:
            forms[quality, count] = _ours(logits, images, params, quality, count)
    results = {form: [run(i) for i in range(len(images))] for form, run in forms.items()}  # warms up, too
    best = {form: [np.inf] * len(images) for form in forms}
    least_cpu = {form: [np.inf] * len(images) for form in forms}
    for _ in range(repeats):
        for form, run in forms.items():
            for i in range(len(images)):
                start_ns, start_cpu_ns = time.perf_counter_ns(), time.process_time_ns()
                run(i)
                cpu_ms = (time.process_time_ns() - start_cpu_ns) / 1e6
                best[form][i] = min(best[form][i], (time.perf_counter_ns() - start_ns) / 1e6)
                least_cpu[form][i] = min(least_cpu[form][i], cpu_ms)
    beside = ("pydensecrf", 1) if ("pydensecrf", 1) in forms else ("exact", threads[0])
    took = {form: float(np.mean(times)) for form, times in best.items()}
    cpu = {form: float(np.mean(times)) for form, times in least_cpu.items()}
    return [
        CrfRow(
            quality=quality,
            preset=name,
            threads=count,
            ms=round(took[quality, count], 3),
            factor=round(took[beside] / took[quality, count], 2) if beside[0] == "pydensecrf" else None,
            cpu_factor=round(cpu[beside] / cpu[quality, count], 2) if beside[0] == "pydensecrf" else None,
            agreement=round(100 * _mean(_agreement, results[quality, count], results[beside]), 4),
            mean_difference=_mean(_difference, results[quality, count], results[beside]),
            miou=None if labels is None else _miou(results[quality, count], labels),
        )
        for quality, count in forms
    ]


def _ours(
    logits: Sequence[F32], images: Sequence[U8], params: CrfParams, quality: crf.Quality, threads: int
) -> Callable[[int], F32]:
    space = crf.Workspace()
    return lambda i: crf.mean_field(
        logits[i], images[i], params, quality=quality, threads=threads, workspace=space
    )


def _reference(logits: Sequence[F32], images: Sequence[U8], params: CrfParams) -> Callable[[int], F32]:
    """Runs the reference on logits that are scaled already: none of our iterations do just that."""
    full = [
        np.log(np.maximum(crf.mean_field(scores, image, params, iterations=0), 1e-30))
        for scores, image in zip(logits, images, strict=True)
    ]
    jobs = [make_job(scores, image, params) for scores, image in zip(full, images, strict=True)]
    return lambda i: run_reference(jobs[i])


def reference_available() -> bool:
    """Whether pydensecrf is installed (the extra `pydensecrf`)."""
    return importlib.util.find_spec("pydensecrf") is not None


def run_reference(job: Job) -> F32:
    """Run pydensecrf on logits of the picture's size, holding the GIL: probabilities (C, H, W)."""
    import pydensecrf.densecrf as dense

    height, width = job.size
    reference = dense.DenseCRF2D(width, height, job.classes)
    energy = np.minimum(job.logits.max(0) - job.logits, 1e4)
    reference.setUnaryEnergy(np.ascontiguousarray(energy.reshape(job.classes, -1), np.float32))
    for term in job.terms:
        compat = term.compatibility_array(job.classes)
        # pydensecrf subtracts a vector times Q, where ours rewards equal labels.
        given = {"compat": float(compat) if compat.ndim == 0 else -compat if compat.ndim == 1 else compat}
        given["normalization"] = dense.NormalizationType(int(term.normalisation))
        if term.features is not None:
            reference.addPairwiseEnergy(np.ascontiguousarray(term.features, np.float32), **given)
        elif term.sigma_channels is None:
            reference.addPairwiseGaussian(sxy=term.sigma_x_y(), **given)
        else:
            assert job.image is not None
            sigmas = term.channel_sigmas(job.image.shape[2])
            assert sigmas is not None
            reference.addPairwiseBilateral(
                sxy=term.sigma_x_y(), srgb=tuple(float(s) for s in sigmas), rgbim=job.image, **given
            )
    return np.array(reference.inference(job.iterations), np.float32).reshape(job.classes, height, width)


def _mean(measure: Callable[[F32, F32], float], ours: Sequence[F32], theirs: Sequence[F32]) -> float:
    return float(np.mean([measure(a, b) for a, b in zip(ours, theirs, strict=True)]))


def _agreement(a: F32, b: F32) -> float:
    return float((a.argmax(0) == b.argmax(0)).mean())


def _difference(a: F32, b: F32) -> float:
    return float(np.abs(a - b).mean())


def _miou(results: Sequence[F32], labels: Sequence[U8]) -> float | None:
    classes = results[0].shape[0]
    matrix = sum(
        confusion_matrix(truth, q.argmax(0).astype(np.uint8), classes)
        for q, truth in zip(results, labels, strict=True)
    )
    return scores_of(np.asarray(matrix), [str(c) for c in range(classes)], len(results)).miou


def crf_pictures(
    engine: str, data: Path, count: int = 4, size: Size | None = None, classes: int | None = None
) -> tuple[list[F32], list[U8], list[U8]]:
    """Logits, pictures and labels for bench_crf: `count` pictures spread over a labelled folder.

    They are scaled to `size` (H, W) if given; logits are the engine's own, at its output stride, with smooth
    random ones added up to `classes`.
    """
    network = load_engine(EngineConfig(name=engine, precision="fp32"))
    try:
        folder = LabelledFolder(data, len(network.info.spec.classes))
        logits, images, labels = [], [], []
        for index in np.linspace(0, len(folder) - 1, min(count, len(folder))).astype(int):
            _, rgb, truth = folder[int(index)]
            if size is not None:
                rgb = np.asarray(cv2.resize(rgb, size[::-1], interpolation=cv2.INTER_AREA), np.uint8)
                truth = np.asarray(cv2.resize(truth, size[::-1], interpolation=cv2.INTER_NEAREST), np.uint8)
            own = network(make_batch([rgb], input_size(network, (rgb.shape[0], rgb.shape[1]))))[0]
            logits.append(np.concatenate([own, *_more(max(0, (classes or 0) - len(own)), own.shape[1:])]))
            images.append(rgb)
            labels.append(truth)
        return logits, images, labels
    finally:
        network.close()


def _more(count: int, size: tuple[int, ...]) -> list[F32]:
    """Logits (1, h, w) of classes that are seldom the likeliest, the same each time."""
    rng = np.random.default_rng(0)
    coarse = rng.normal(-1.0, 1.5, (count, 9, 9)).astype(np.float32)
    return [
        np.asarray(cv2.resize(c, size[::-1], interpolation=cv2.INTER_CUBIC), np.float32)[None] for c in coarse
    ]


@click.command()
@click.option("--engine", "name", default=EngineConfig().name, help="The engine whose logits are refined.")
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="A folder with images/ and labels/."
)
@click.option("--pictures", type=click.IntRange(1), default=4, help="How many of its images.")
@click.option("--size", type=int, nargs=2, help="Scale the images to this (height, width).")
@click.option(
    "--classes", type=click.IntRange(1, 256), help="Add random classes to the engine's, up to this number."
)
@click.option("--threads", type=int, multiple=True, default=(1, 2), help="CPU threads; may be repeated.")
@click.option("--repeats", type=click.IntRange(1), default=5, help="Runs of each form; the fastest counts.")
@as_json
def command(
    name: str,
    data: Path,
    pictures: int,
    size: tuple[int, int] | None,
    classes: int | None,
    threads: tuple[int, ...],
    repeats: int,
    as_json: bool,
) -> None:
    """Every quality of the dense CRF beside pydensecrf, if that is installed, in one run."""
    logits, images, labels = crf_pictures(name, data, pictures, size, classes)
    result = bench_crf(logits, images, threads=threads, repeats=repeats, labels=labels)
    if as_json:
        return print_json(result)
    height, width = result.size
    click.echo(
        f"{width}x{height}, {result.classes} classes, {result.pictures} images, {result.machine.processor}"
    )
    for preset, rows in itertools.groupby(result.rows, key=lambda row: row.preset):
        click.echo(f"\n{preset}")
        show_table(
            ("quality", "threads", "ms", "factor", "of CPU", "agreement %", "mean |ΔQ|", "mIoU"),
            (
                (
                    row.quality, str(row.threads), f"{row.ms:.1f}", or_dash(row.factor, ".1f"),
                    or_dash(row.cpu_factor, ".1f"), or_dash(row.agreement, ".3f"),
                    or_dash(row.mean_difference, ".1e"), or_dash(row.miou, ".2f"),
                )
                for row in rows
            ),
        )  # fmt: skip


if __name__ == "__main__":
    run_command(command)

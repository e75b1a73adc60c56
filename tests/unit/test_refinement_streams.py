"""The CRF and fusion as recorded files and the fuse stage use them."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from fractions import Fraction

import cv2
import msgspec
import numpy as np
import pytest

from streamseg.config import CrfConfig, FusionConfig, LabelsConfig, RefinementConfig
from streamseg.errors import ConfigError
from streamseg.inference.label_view import drop_small, view_of
from streamseg.inference.scaling import labels_from_logits
from streamseg.inference.spec import ClassEntry, EngineSpec, Normalisation, Weights, find_engine
from streamseg.refinement import crf_step
from streamseg.refinement.crf_step import Keyframe, crf_setup, refine, refine_picture
from streamseg.refinement.streams import Labelled, LiveRefinement, StreamRefinement, recorded_refinement
from streamseg.runtime.counters import Stats
from streamseg.types import DEFAULT_ENGINE, F32, U8, Frame, Geometry, Logits, Refined, Size, Stamp

SIZE = (48, 64)
SPEC = EngineSpec(
    name="drawn",
    network="none",
    licence="none",
    label_set="three",
    input_size=SIZE,
    normalisation=Normalisation(mean=(0, 0, 0), std=(1, 1, 1), in_graph=True),
    weights={"fp32": Weights(file="none.onnx", sha256="0" * 64)},
    classes=tuple(ClassEntry(name=n, colour=(0, 0, 0), thin=n == "pole") for n in ("sky", "road", "pole")),
)


def scores(seq: int, seed: int | None = None) -> Logits:
    """A picture of two colours whose border the logits know only roughly."""
    rng = np.random.default_rng(seq if seed is None else seed)
    rgb = np.full((*SIZE, 3), 60, np.uint8)
    rgb[:, 30 + seq % 3 :] = 200
    rgb += rng.integers(0, 8, rgb.shape).astype(np.uint8)
    logits = rng.normal(0, 1.5, (3, 12, 16)).astype(np.float32)
    logits[0, :, :8] += 2
    logits[1, :, 8:] += 2
    logits[2] -= 3
    frame = Frame(
        Stamp("gate", 0, seq, None, Fraction(1, 25), 0, "arrival"), cv2.GaussianBlur(rgb, (3, 3), 0), 0
    )
    return Logits(frame, logits, Geometry(SIZE, SIZE))


def labels(one: StreamRefinement, logits: Logits, confidence: bool = False) -> Labelled:
    """As a recorded stream without fusion or smoothing asks for them."""
    (labelled,) = one.add(logits, SIZE, confidence, refined_wanted=True)
    return labelled


def recorded(on: str, every: int = 5, fuses: bool = False, quality: str = "balanced") -> StreamRefinement:
    config = RefinementConfig(
        every=every,
        crf=CrfConfig(on=on, quality=quality),  # type: ignore[arg-type]
        fusion=FusionConfig(enabled=fuses),
    )
    return recorded_refinement(config, SPEC)


def test_all_is_the_crf_of_each_frame() -> None:
    inline = recorded("all", quality="exact")
    setup = crf_setup(CrfConfig(quality="exact"), SPEC)
    for seq in range(3):
        one = scores(seq)
        got = labels(inline, one, confidence=True)
        want = refine_picture(setup, one.array, one.frame.rgb, SIZE, confidence=True)
        np.testing.assert_array_equal(got.labels, want.labels)
        np.testing.assert_array_equal(got.confidence, want.confidence)
        assert got.refined_seq == seq
        network, _ = labels_from_logits(one.array, SIZE)
        wrong_before, wrong_after = ((x[:, :28] != 0).mean() for x in (network, got.labels))
        assert wrong_before > 0.03
        assert wrong_after < 0.7 * wrong_before


def test_keyframes_leaves_the_frames_between_as_the_network_saw_them() -> None:
    inline = recorded("keyframes", every=3)
    seqs = [labels(inline, scores(seq)).refined_seq for seq in range(7)]
    assert seqs == [0, None, None, 3, None, None, 6]
    np.testing.assert_array_equal(
        labels(inline, scores(7)).labels, labels_from_logits(scores(7).array, SIZE)[0]
    )


def test_fusion_carries_refinements_on() -> None:
    inline = recorded("keyframes", every=3, fuses=True)
    seqs = [inline.add(scores(seq), SIZE)[0].refined_seq for seq in range(7)]
    assert seqs == [0, 0, 0, 3, 3, 3, 6]


class Seen:
    """A picture of a large frame that gives itself at the network's size only."""

    def __init__(self, rgb: U8) -> None:
        self._rgb = rgb
        self.size = 1080, 1920

    def rgb(self) -> U8:
        raise AssertionError("the whole picture is not needed")

    def scaled(self, size: Size) -> U8:
        assert size == SIZE
        return self._rgb

    def luma(self, size: Size) -> U8:
        raise AssertionError("nor its luma alone")


@pytest.mark.parametrize("lookahead", [0, 2])
def test_a_large_frame_is_refined_as_the_network_saw_it(lookahead: int) -> None:
    """Keyframes, the CRF, fusion and smoothing: to the byte what a frame of the network's size gives."""

    def run(large: bool) -> list[bytes]:
        config = RefinementConfig(every=2, lookahead=lookahead, fusion=FusionConfig(enabled=True))
        inline = recorded_refinement(msgspec.structs.replace(config, crf=CrfConfig(on="keyframes")), SPEC)
        made = []
        for seq in range(6):
            one = scores(seq)
            if large:
                one = replace(one, frame=replace(one.frame, picture=Seen(one.frame.rgb)))
            made += inline.add(one, (30, 50))
        return [labelled.labels.tobytes() for labelled in made + inline.rest((30, 50))]

    assert run(large=True) == run(large=False)
    assert len(run(large=True)) == 6


@pytest.mark.parametrize("on", ["off", "keyframes", "all"])
def test_it_repeats_to_the_byte_and_from_a_reset(on: str) -> None:
    def run(inline: StreamRefinement) -> list[bytes]:
        return [inline.add(scores(seq), SIZE)[0].labels.tobytes() for seq in range(4)]

    inline = recorded(on, every=2, fuses=True)
    first = run(inline)
    inline.reset()
    assert run(inline) == first == run(recorded(on, every=2, fuses=True))


def test_a_process_that_answers_at_once_gives_what_the_crf_in_line_gives() -> None:
    """One state machine: live and recorded differ in when the answer comes, by one frame at least."""
    config = RefinementConfig(level="live", every=2)
    setup = crf_setup(config.crf, SPEC)
    live = StreamRefinement(config, setup, lambda keyframe: sent.append(keyframe))
    sent: list[Keyframe] = []
    seqs = []
    for seq in range(5):
        seqs.append(live.add(scores(seq), SIZE)[0].refined_seq)
        for keyframe in sent:
            posterior = refine(keyframe.request())
            live.answer(Refined(keyframe.logits, posterior.log_probabilities, 0.0))
        sent.clear()
    assert seqs == [None, 0, 0, 2, 2]


@pytest.mark.parametrize(("on", "fuses"), [("all", False), ("keyframes", True), ("keyframes", False)])
def test_how_labels_are_published_is_the_last_step(on: str, fuses: bool) -> None:
    """The CRF and fusion work on the engine's own classes, thin ones too; frames have holes."""
    chosen = LabelsConfig(only=("pole", "sky"), min_confidence=0.55, min_region=9)
    merged = LabelsConfig(merge={"rest": ("pole", "sky")}, min_confidence=0.55)
    runs = [recorded(on, every=2, fuses=fuses) for _ in range(3)]
    for seq in range(6):
        one = scores(seq)
        if seq == 3:
            one = replace(one, data=np.where(np.arange(16) < 3, np.float32(np.nan), one.array))
        plain, viewed, joined = (
            run.add(one, SIZE, True, view, refined_wanted=not fuses)[0]
            for run, view in zip(
                runs, (None, *(view_of(SPEC.labels, c) for c in (chosen, merged))), strict=True
            )
        )
        assert plain.confidence is not None
        want = np.array([0, 255, 1, *[255] * 253], np.uint8)[plain.labels]
        want[plain.confidence < 255 * 0.55] = 255
        want, sure = drop_small(want, plain.confidence.copy(), 9)
        np.testing.assert_array_equal(viewed.labels, want)
        np.testing.assert_array_equal(viewed.confidence, np.where(want == 255, 0, sure))
        assert viewed.refined_seq == plain.refined_seq
        assert joined.confidence is not None
        known = (joined.labels != 255) & (plain.labels != 255)
        assert known.mean() > 0.3
        np.testing.assert_array_equal(
            joined.labels[known], np.array([0, 1, 0], np.uint8)[plain.labels[known]]
        )
        assert (joined.confidence[known] >= plain.confidence[known].astype(int) - 1).all()
        assert (joined.labels[plain.labels == 255] == 255).all()


def test_best_looks_ahead_and_gives_every_frame_once() -> None:
    inline = recorded_refinement(RefinementConfig(level="best", every=3), SPEC)
    got = [one for seq in range(14) for one in inline.add(scores(seq), SIZE)]
    assert len(got) == 8  # two blocks of 4
    got += inline.rest(SIZE)
    assert [one.logits.frame.seq for one in got] == list(range(14))


def test_the_gpus_mean_field_gives_what_the_compiled_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CPU tensors: there is no CUDA device here."""
    pytest.importorskip("torch")
    monkeypatch.setattr(crf_step, "DEVICE", "cpu")
    monkeypatch.setattr(crf_step, "_why_no_gpu", lambda: "")
    one = scores(0)
    ours, theirs = (
        refine_picture(crf_setup(CrfConfig(quality="exact", backend=b), SPEC), one.array, one.frame.rgb, SIZE)  # type: ignore[arg-type]
        for b in ("native", "gpu")
    )
    assert ours.labels is not None
    assert (ours.labels == theirs.labels).mean() > 0.999
    np.testing.assert_allclose(np.exp(ours.log_probabilities), np.exp(theirs.log_probabilities), atol=0.01)


def test_a_gpu_that_is_missing_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        ConfigError, match=r"refinement.crf.backend: gpu needs torch and a CUDA device; torch finds no CUDA"
    ):
        crf_setup(CrfConfig(backend="gpu"), SPEC)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="torch is not installed"):
        crf_setup(CrfConfig(backend="gpu"), SPEC)


def test_odd_sizes_are_halved_to_what_the_crf_gives_at_half_resolution() -> None:
    rgb = scores(0).frame.rgb[:47, :63].copy()
    logits: F32 = scores(0).array
    setup = crf_setup(CrfConfig(), SPEC)
    full = refine_picture(setup, logits, rgb, (47, 63)).log_probabilities
    half = refine_picture(setup, logits, rgb).log_probabilities
    assert full.shape == half.shape == (3, 24, 32)
    assert np.abs(np.exp(full) - np.exp(half)).mean() < 0.05


def test_a_preset_that_is_not_known_is_refused_with_its_key() -> None:
    with pytest.raises(ConfigError, match=r"refinement\.crf\.preset: .*deeplab-v2"):
        crf_setup(CrfConfig(preset="deeplab-v2-vgg1"), SPEC)


def live(config: RefinementConfig) -> LiveRefinement:
    refinement = LiveRefinement(config, Stats())
    refinement.serve(DEFAULT_ENGINE, SPEC)
    return refinement


class Watched:
    """A live refinement whose worker only notes what it was given."""

    def __init__(self, wanted: bool, config: RefinementConfig) -> None:
        self.wanted = wanted
        self.refinement = live(config)
        self.submitted: list[tuple[int, object]] = []
        self.refinement._worker.submit = lambda key: self.submitted.append(  # type: ignore[method-assign]
            (key.logits.frame.seq, key.labels_size)
        )

    def step(self, count: int) -> None:
        for seq in range(count):
            self.refinement.labels(scores(seq), SIZE, refined_wanted=self.wanted)


OFF = RefinementConfig(every=3)


def test_demand_decides_what_goes_to_the_crf() -> None:
    (
        nobody,
        subscriber,
    ) = Watched(False, OFF), Watched(True, OFF)
    live = Watched(False, RefinementConfig(level="live", every=3))
    fusion = Watched(False, RefinementConfig(every=3, fusion=FusionConfig(enabled=True)))
    never = Watched(True, RefinementConfig(every=3, crf=CrfConfig(on="off")))
    all_ = Watched(True, RefinementConfig(crf=CrfConfig(on="all")))
    for watched in (nobody, subscriber, live, fusion, never, all_):
        watched.step(5)
    assert nobody.submitted == []
    assert subscriber.submitted == [(0, SIZE), (3, SIZE)]
    assert live.submitted == [(0, None), (3, None)]
    assert fusion.submitted == never.submitted == []
    assert all_.submitted == [(seq, SIZE) for seq in range(5)]
    needed = [
        w.refinement.needed(DEFAULT_ENGINE, w.wanted) for w in (nobody, subscriber, live, fusion, never)
    ]
    assert needed == [False, True, True, True, False]


def test_without_fusion_a_live_mask_is_the_network_s_own() -> None:
    watched = Watched(True, OFF)
    labelled = watched.refinement.labels(scores(0), SIZE, refined_wanted=True)
    np.testing.assert_array_equal(labelled.labels, labels_from_logits(scores(0).array, SIZE)[0])
    assert labelled.refined_seq is None


def test_a_keyframe_can_be_asked_for() -> None:
    watched = Watched(True, OFF)
    watched.step(2)
    watched.refinement.request_keyframe("gate")
    watched.refinement.labels(scores(2), SIZE, refined_wanted=True)
    assert [seq for seq, _ in watched.submitted] == [0, 2]


def test_without_the_compiled_crf_a_level_is_refused_and_plain_masks_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(crf_step, "native_missing_reason", lambda: "the compiled CRF is missing")
    for build in (
        live,
        lambda config: recorded_refinement(config, SPEC),
    ):
        with pytest.raises(ConfigError, match="the compiled CRF is missing"):
            build(RefinementConfig(level="live"))
    labelled = live(OFF).labels(scores(0), SIZE)
    np.testing.assert_array_equal(labelled.labels, labels_from_logits(scores(0).array, SIZE)[0])


def test_the_settings_reach_the_crf() -> None:
    own = msgspec.structs.replace(SPEC, crf=msgspec.structs.replace(SPEC.crf, appearance_weight=1.5))
    assert crf_setup(CrfConfig(), own).params.appearance_weight == 1.5
    assert crf_setup(CrfConfig(preset="deeplab-largefov"), own).params.appearance_sigma_xy == 121
    _, slim = find_engine("camvid-slim")
    assert crf_setup(CrfConfig(preset="camvid-slim"), own).params == crf_setup(CrfConfig(), slim).params


@pytest.mark.parametrize(
    ("config", "unasked", "asked"),
    [
        (RefinementConfig(), False, True),  # subscribers of refined masks have keyframes at every level
        (RefinementConfig(level="live"), True, True),
        (RefinementConfig(level="live", crf=CrfConfig(on="off")), False, False),  # fusion alone
        (RefinementConfig(crf=CrfConfig(on="off")), False, False),
        (RefinementConfig(crf=CrfConfig(on="keyframes")), True, True),
    ],
)
def test_a_keyframe_can_be_asked_for_where_the_crf_has_it(
    config: RefinementConfig, unasked: bool, asked: bool
) -> None:
    refinement = live(config)
    assert refinement.uses_crf(DEFAULT_ENGINE, refined_wanted=False) is unasked
    assert refinement.uses_crf(DEFAULT_ENGINE, refined_wanted=True) is asked

"""A segment made by itself is the segment that a run over the whole file makes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from streamseg.config import CrfConfig, EngineConfig, RefinementConfig
from streamseg.inference.plans.load import load_engine
from streamseg.recorded import ProcessConfig
from streamseg.recorded import segment_plan as cuts
from streamseg.recorded.encode import SegmentMaker
from streamseg.recorded.inputs import find_inputs
from streamseg.recorded.opening import probe
from streamseg.recorded.route import Route, SegmentEnd
from streamseg.recorded.segment_plan import OtherPictures, SegmentRoute, make_segment, plan_segments
from streamseg.recorded.segments import segment_path
from tests.media import write_video

NOISE = np.random.default_rng(3).integers(0, 255, (26, 6, 8, 3), np.uint8)
PICTURES = [np.kron(n, np.ones((8, 8, 1), np.uint8)) for n in NOISE]
TS = {"time_base": Fraction(1, 90000), "pts": [9000 + 3600 * i for i in range(26)]}
OPEN = {"bf": "2", "g": "5", "x264-params": "open-gop=1:scenecut=0"}

REFINED = RefinementConfig(crf=CrfConfig(on="keyframes"), lookahead=1)

CLIPS: dict[str, dict[str, Any]] = {
    "b-frames.mp4": {"options": {"g": "5", "bf": "2", "sc_threshold": "0"}},
    "open-gop.mkv": {"options": OPEN},
    "open-gop.ts": {"options": OPEN, **TS},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"g": "5", "bf": "2"}},
    "one-intra-frame.mp4": {"options": {"g": "100", "sc_threshold": "0"}},
    "no-time-stamps.h264": {"container_format": "h264", "options": {"g": "5"}},
}


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize(
    "settings",
    [{}, {"every": 3, "start_s": 0.3, "refinement": REFINED}],
    ids=["plain", "chosen-and-refined"],
)
def test_a_segment_made_by_itself_has_the_same_bytes(
    tmp_path: Path, tiny_engine: Path, name: str, settings: dict[str, Any]
) -> None:
    clip = tmp_path / name
    write_video(clip, PICTURES, **CLIPS[name])
    (one,) = find_inputs([str(clip)])
    config = ProcessConfig(engine=EngineConfig(name=str(tiny_engine), threads=1), segment_frames=3)
    config = msgspec.structs.replace(config, **settings)
    engine = load_engine(config.engine)
    recording = probe(one, config, [engine])
    route = Route(recording)
    segments = SegmentMaker(route, tmp_path, recording.timeline(), lambda: None).run()
    found = list(plan_segments(recording))
    assert [s.index for s in found] == list(range(segments))
    assert segments > 1 or settings  # of few chosen frames, none may be intra
    for planned in found:
        made = make_segment(recording, planned)
        assert made == segment_path(tmp_path, planned.index).read_bytes(), planned.index
    engine.close()


def test_where_a_seek_gives_other_pictures_the_file_is_decoded_from_its_beginning(
    tmp_path: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip = tmp_path / "clip.mp4"
    write_video(clip, PICTURES, **CLIPS["b-frames.mp4"])
    (one,) = find_inputs([str(clip)])
    config = ProcessConfig(engine=EngineConfig(name=str(tiny_engine), threads=1), segment_frames=3)
    engine = load_engine(config.engine)
    recording = probe(one, config, [engine])
    last = list(plan_segments(recording))[-1]
    sought = SegmentRoute(recording, planned=last, seeks=True)
    wanted = [f.rgb.copy() for f in sought.frames() if not isinstance(f, SegmentEnd)]
    last.checksum ^= 1
    with pytest.raises(OtherPictures, match="decodes to other pictures"):
        make_segment(recording, last)
    last.checksum ^= 1
    tries: list[bool] = []

    class Misled(SegmentRoute):
        def frames(self) -> Any:
            tries.append(self.seeks)
            if self.seeks:
                raise OtherPictures("an open group of pictures")
            return super().frames()

    monkeypatch.setattr(cuts, "SegmentRoute", Misled)
    assert make_segment(recording, last)
    assert tries == [True, False]
    counted = SegmentRoute(recording, planned=last, seeks=False)
    found = [f.rgb.copy() for f in counted.frames() if not isinstance(f, SegmentEnd)]
    assert all((a == b).all() for a, b in zip(found, wanted, strict=True))
    engine.close()

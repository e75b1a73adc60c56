"""Print the files of the package that one live frame passes, thread by thread.

    python tools/walk.py           a frame of a running daemon without the CRF
    python tools/walk.py --crf     a keyframe's way to the CRF's process and back

Runs a daemon on a clip of less than one frame a second, so that only one frame is on its way at any time, and
notes every function of the package that is called (sys.setprofile) from when the frame is decoded until its
mask is received. Files of which only attributes are read are not seen.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
from fractions import Fraction
from pathlib import Path
from types import FrameType

import av
import numpy as np

PACKAGE = Path(__file__).resolve().parents[1] / "streamseg"
sys.path.insert(0, str(PACKAGE.parent))  # the checkout's code, not an installed one
FPS = Fraction(4, 5)  # no multiple of a timer's rate
FRAMES = 4  # what is not entered for each of them, such as what a timer calls, is left out
SETTLE_S = 0.05  # for what still runs after a mask was received
WARM_UP_MASKS = 6

CHILD = """
import os, sys, time
log = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
def note(frame, event, arg):
    code = frame.f_code
    if event == "call" and code.co_filename.startswith({package!r}):
        os.write(log, f"{{time.monotonic()}} {{code.co_filename}} {{code.co_name}}\\n".encode())
if "streamseg.refinement.crf_worker" in sys.orig_argv:
    sys.setprofile(note)
"""

GENERATORS = ("frames", "live_frames")
CALLED_BACK = {("sources/opening.py", "monotonic")}  # PyAV asks for the time; the frame does not pass here

Call = tuple[float, str, str, str]
"""(monotonic seconds, thread, file below the package, function)"""


class Recorder:
    """Notes every call of a function of the package, with the thread."""

    def __init__(self) -> None:
        self.calls: list[Call] = []  # list.append is atomic

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(str(PACKAGE)):
            thread = threading.current_thread().name
            self.calls.append((time.monotonic(), thread, below(name), frame.f_code.co_name))


def below(name: str) -> str:
    return str(Path(name).relative_to(PACKAGE))


def make_clip(path: Path) -> None:
    """Eight frames of a moving edge, FPS frames a second."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", FPS)
        stream.width, stream.height, stream.pix_fmt = 480, 360, "yuv420p"
        for at in range(8):
            rgb = np.full((360, 480, 3), 90, np.uint8)
            rgb[:, : 40 * (at + 1)] = (200, 120, 40)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, format="rgb24")))
        container.mux(stream.encode(None))


def record(folder: Path, crf: bool) -> tuple[list[Call], list[float]]:
    """Run a daemon → the calls, and when the masks of FRAMES frames in a row were received."""
    from streamseg import Daemon, parse_config, subscribe

    clip, log = folder / "clip.mp4", folder / "child.log"
    make_clip(clip)
    (folder / "sitecustomize.py").write_text(CHILD.format(package=str(PACKAGE), log=str(log)))
    sys.path.insert(0, str(folder))  # a child process imports from where this one does
    config = f'''
        [streams.gate]
        source = "{clip}"
        realtime = true
        loop = true
        [engine]
        backend = "onnx"
        threads = 1
        input_size = [96, 128]
        [publish]
        endpoint = "tcp://127.0.0.1:0"
        [refinement]
        every = 1
    '''
    recorder = Recorder()
    threading.setprofile(recorder)  # for the threads that are started from now on
    daemon = Daemon(parse_config(config))
    runner = threading.Thread(target=daemon.run, name="daemon")
    runner.start()
    try:
        if not daemon.ready.wait(60):
            raise SystemExit("the daemon did not start within 60 s")
        with subscribe(daemon.endpoint, ["gate"], refined=crf, newest=False) as masks:
            wanted = (mask for mask in masks if mask.revision == int(crf))
            for _ in range(WARM_UP_MASKS):
                next(wanted)
            received_s = []
            for _ in range(FRAMES):
                next(wanted)
                received_s.append(time.monotonic())
            time.sleep(2 * SETTLE_S)
    finally:
        daemon.stop()
        runner.join()
        threading.setprofile(None)
    calls = recorder.calls
    if log.exists():
        for line in log.read_text().splitlines():
            at, name, function = line.split(" ", 2)
            calls.append((float(at), "CRF process", below(name), function))
    return sorted(calls), received_s


def of_one_frame(calls: list[Call], received_s: float) -> dict[str, list[Call]]:
    """The calls for the frame whose mask was received then, by thread; the daemon's own thread left out.

    The decode thread reads the next picture before it waits for its time: there the frame's calls are those
    from one resumption of the source's generator to the next.
    """
    threads: dict[str, list[Call]] = {}
    for call in calls:
        if call[2:] not in CALLED_BACK:
            threads.setdefault(call[1], []).append(call)
    own = threads["decode-gate"]
    starts = [
        i for i, c in enumerate(own) if c[2] == "sources/live.py" and c[3] in GENERATORS and c[0] < received_s
    ]
    walk = {"decode-gate": own[starts[-2] : starts[-1]]}
    submitted_s = next(c[0] for c in walk["decode-gate"] if c[2] == "live/pipeline.py")
    for name in ("infer", "fuse", "refine", "CRF process", "publish"):
        walk[name] = [c for c in threads.get(name, []) if submitted_s <= c[0] <= received_s + SETTLE_S]
    return walk


def of_all(walks: list[dict[str, list[Call]]]) -> dict[str, list[Call]]:
    """The last frame's calls, without the files that were not entered for each of the frames."""
    if not all(any(c[3] == "_publish" for c in walk["publish"]) for walk in walks):
        raise SystemExit(
            "this machine is too busy: a frame took longer than until the next one; run it again"
        )
    last = {}
    for name in walks[-1]:
        everywhere = set.intersection(*({c[2] for c in walk[name]} for walk in walks))
        last[name] = [c for c in walks[-1][name] if c[2] in everywhere]
    return last


def report(walk: dict[str, list[Call]], threads: list[str]) -> int:
    """Print the files in the order in which they are first entered; returns their number."""
    seen: dict[str, None] = {}
    for thread in threads:
        print(f"{thread}:")
        files: dict[str, list[str]] = {}
        entries: dict[str, int] = {}
        before = ""
        for _, _, file, function in walk[thread]:
            names = files.setdefault(file, [])
            if function not in names:
                names.append(function)
            entries[file] = entries.get(file, 0) + (file != before)
            before = file
        for file, names in files.items():
            mark = "   " if file in seen else f"{len(seen) + 1:2} "
            seen.setdefault(file)
            print(f"  {mark} {file:32} x{entries[file]:<3} {', '.join(names)[:100]}")
    return len(seen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--crf", action="store_true", help="follow a keyframe to the CRF and back")
    crf = parser.parse_args().crf
    with tempfile.TemporaryDirectory() as folder:
        calls, received_s = record(Path(folder), crf)
    walk = of_all([of_one_frame(calls, at_s) for at_s in received_s])
    if crf:
        # Of the fuse thread, what follows the entry into the refinement, until it is left.
        inside = [i for i, c in enumerate(walk["fuse"]) if c[2].startswith("refinement/")]
        walk["fuse"] = walk["fuse"][inside[0] : inside[-1] + 1]
        # The keyframe is back when its mask is handed to the publisher, which then wakes its thread.
        walk["refine"] = [c for c in walk["refine"] if not c[2].startswith("net/")]
        count = report(walk, ["fuse", "refine", "CRF process"])
        print(f"a keyframe there and back: {count} files")
    else:
        count = report(walk, ["decode-gate", "infer", "fuse", "publish"])
        print(f"a live frame: {count} files")


if __name__ == "__main__":
    main()

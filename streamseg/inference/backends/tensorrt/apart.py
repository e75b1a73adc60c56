"""TensorRT-RTX's builder in a process of its own, whose memory lies at the same addresses each time.

The builder numbers its tensors in an order that comes from where they lie. Of builds with random addresses
two in ten wrote other bytes (another numbering, the same kernels); with fixed ones 23 of 23 were equal. Where
fixed addresses are not allowed, as in some containers, the plan is as good and its bytes may differ.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import subprocess
import sys

import msgspec

from streamseg.errors import EngineError
from streamseg.inference.backends.tensorrt.plan import build_plan
from streamseg.inference.spec import Shapes

_ADDR_NO_RANDOMIZE = 0x0040000  # of personality(2)
_ASK = 0xFFFFFFFF


class _Order(msgspec.Struct, frozen=True):
    shapes: Shapes
    target: str


class _Answer(msgspec.Struct, frozen=True):
    error: str = ""


def build_apart(graph: bytes, shapes: Shapes, target: str) -> bytes:
    """Build as build_plan does, the same bytes from the same arguments; raises EngineError."""
    order = msgspec.json.encode(_Order(shapes, target))
    libc = ctypes.CDLL(None)
    before = libc.personality(_ASK)
    libc.personality(before | _ADDR_NO_RANDOMIZE)  # of this thread, and of what it starts
    try:
        child = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
    finally:
        libc.personality(before)
    with child:
        out, _ = child.communicate(order + b"\n" + graph)
    answer, _, plan = out.partition(b"\n")
    if child.returncode or not answer:
        raise EngineError(f"TensorRT-RTX's builder ended with code {child.returncode}")
    if error := msgspec.json.decode(answer, type=_Answer).error:
        raise EngineError(error)
    return plan


def fixed_addresses_allowed() -> bool:
    """Whether this system lets a process ask for the same addresses each time."""
    libc = ctypes.CDLL(None)
    before = libc.personality(_ASK)
    allowed = bool(libc.personality(before | _ADDR_NO_RANDOMIZE) != -1)
    libc.personality(before)
    return allowed


def main() -> None:
    """In the child: an order and a graph from standard input, an answer and a plan to standard output."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the library prints goes into the log
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=_Order)
    plan, answer = b"", _Answer()
    try:
        library = importlib.import_module("tensorrt_rtx")
        plan = build_plan(library, sys.stdin.buffer.read(), order.shapes, order.target)
    except (EngineError, ImportError, OSError) as error:
        answer = _Answer(str(error))
    with out:
        out.write(msgspec.json.encode(answer) + b"\n" + plan)


if __name__ == "__main__":
    main()

"""Splat, blur, slice and the fused update as Triton kernels.

They have not been run on a GPU yet. In Triton's interpreter (TRITON_INTERPRET=1) they equal the compiled CRF
(tools/device/checks/interpreter.py), and tools/device/aot_triton.py compiles them for GPUs that are not
there. A program works on BLOCK pixels or points by all classes, padded to a power of two and masked. Rows
are padded to 16 bytes, which one access moves; sums need no order, so atomics are relaxed.
"""

# Arguments of a kernel are pointers and constants of its own language: types would say nothing about them.
# mypy: disable-error-code="untyped-decorator,no-untyped-def,no-untyped-call,import-not-found,import-untyped"

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from streamseg.crf.torch_lattice import TorchLattice

_BLOCK = 32


@triton.jit
def _splat(
    values,
    vertices,
    weights,
    rows,
    count,
    NV: tl.constexpr,
    BLOCK: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
):
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, C)
    here = pixel < count
    mask = here[:, None] & (lane < S)[None, :]
    value = tl.load(values + pixel[:, None] * S + lane[None, :], mask=mask, other=0.0)
    for k in tl.static_range(NV):
        vertex = tl.load(vertices + pixel * NV + k, mask=here, other=0).to(tl.int64)
        weight = tl.load(weights + pixel * NV + k, mask=here, other=0.0)
        tl.atomic_add(
            rows + vertex[:, None] * S + lane[None, :], weight[:, None] * value, mask=mask, sem="relaxed"
        )


@triton.jit(do_not_specialize=["points"])
def _blur(rows, plus, minus, out, points, BLOCK: tl.constexpr, C: tl.constexpr, S: tl.constexpr):
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, C)
    here = point < points
    mask = here[:, None] & (lane < S)[None, :]
    after = tl.load(plus + point, mask=here, other=0).to(tl.int64)
    before = tl.load(minus + point, mask=here, other=0).to(tl.int64)
    own = tl.load(rows + point[:, None] * S + lane[None, :], mask=mask, other=0.0)
    a = tl.load(rows + after[:, None] * S + lane[None, :], mask=mask, other=0.0)
    b = tl.load(rows + before[:, None] * S + lane[None, :], mask=mask, other=0.0)
    tl.store(out + point[:, None] * S + lane[None, :], own + 0.5 * (a + b), mask=mask)


@triton.jit
def _sliced(
    rows,
    vertices,
    weights,
    pixel,
    here,
    lane,
    mask,
    NV: tl.constexpr,
    BLOCK: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
):
    total = tl.zeros((BLOCK, C), tl.float32)
    for k in tl.static_range(NV):
        vertex = tl.load(vertices + pixel * NV + k, mask=here, other=0).to(tl.int64)
        weight = tl.load(weights + pixel * NV + k, mask=here, other=0.0)
        value = tl.load(rows + vertex[:, None] * S + lane[None, :], mask=mask, other=0.0)
        total += weight[:, None] * value
    return total


@triton.jit
def _slice(
    rows,
    vertices,
    weights,
    out,
    count,
    NV: tl.constexpr,
    BLOCK: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
):
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, C)
    here = pixel < count
    mask = here[:, None] & (lane < S)[None, :]
    total = _sliced(rows, vertices, weights, pixel, here, lane, mask, NV, BLOCK, C, S)
    tl.store(out + pixel[:, None] * S + lane[None, :], total, mask=mask)


@triton.jit
def _update(
    x,
    rows,
    vertices,
    weights,
    gain,
    out,
    count,
    classes,
    NV: tl.constexpr,
    GAIN: tl.constexpr,
    LAST: tl.constexpr,
    BLOCK: tl.constexpr,
    C: tl.constexpr,
    S: tl.constexpr,
):
    """out = x + gain · slice(rows); after the last term the soft-max of that."""
    pixel = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, C)
    here = pixel < count
    mask = here[:, None] & (lane < S)[None, :]
    total = _sliced(rows, vertices, weights, pixel, here, lane, mask, NV, BLOCK, C, S)
    if GAIN:
        total = total * tl.load(gain + pixel, mask=here, other=0.0)[:, None]
    total += tl.load(x + pixel[:, None] * S + lane[None, :], mask=mask, other=0.0)
    if LAST:
        total = tl.where((lane < classes)[None, :], total, -1e30)
        power = tl.exp(total - tl.max(total, axis=1)[:, None])
        total = power / tl.sum(power, axis=1)[:, None]
    tl.store(out + pixel[:, None] * S + lane[None, :], total, mask=mask)


class TritonSteps:
    """The steps of gpu.Steps as kernels; tensors are contiguous float32 on one device."""

    def width(self, classes: int) -> int:
        return -(-classes // 4) * 4

    def splat(self, lattice: TorchLattice, values: Tensor) -> Tensor:
        rows = values.new_zeros((lattice.capacity + 1, values.shape[1]))
        values = values.contiguous()
        _splat[_grid(len(values))](
            values, lattice.vertices, lattice.weights, rows, len(values),
            NV=lattice.dims + 1, **_shape(values),
        )  # fmt: skip
        return rows

    def blur(self, lattice: TorchLattice, rows: Tensor) -> Tensor:
        other = torch.zeros_like(rows)
        for plus, minus in lattice.neighbours:
            _blur[_grid(lattice.capacity)](rows, plus, minus, other, lattice.capacity, **_shape(rows))
            rows, other = other, rows
        return rows

    def slice(self, lattice: TorchLattice, rows: Tensor) -> Tensor:
        count = len(lattice.vertices)
        out = rows.new_empty((count, rows.shape[1]))
        _slice[_grid(count)](
            rows, lattice.vertices, lattice.weights, out, count,
            NV=lattice.dims + 1, **_shape(rows),
        )  # fmt: skip
        return out

    def update(
        self, unary: Tensor, terms: Sequence[tuple[TorchLattice, Tensor, Tensor | None]], classes: int
    ) -> Tensor:
        if not terms:
            return unary.softmax(1)
        x = unary
        for index, (lattice, rows, gain) in enumerate(terms):
            out = torch.empty_like(unary)
            rows = rows.contiguous()
            _update[_grid(len(unary))](
                x, rows, lattice.vertices, lattice.weights, x if gain is None else gain, out,
                len(unary), classes, NV=lattice.dims + 1, GAIN=gain is not None,
                LAST=index == len(terms) - 1, **_shape(unary),
            )  # fmt: skip
            x = out
        return x


def _grid(count: int) -> tuple[int]:
    return (triton.cdiv(count, _BLOCK),)


def _shape(rows: Tensor) -> dict[str, Any]:
    return {"BLOCK": _BLOCK, "C": max(triton.next_power_of_2(rows.shape[1]), 2), "S": rows.shape[1]}

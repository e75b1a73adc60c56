"""No bytes make the Caffe reader crash, hang or take memory: it reads them or raises WeightsError."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch")

from streamseg.errors import WeightsError
from streamseg.models.weights.caffe import read_layers
from tests.caffe import blob, chunk, layer, net, number

SOUND = net(
    layer("conv1_1", [blob(np.ones((2, 3, 3, 3), np.float32)), blob(np.zeros(2, np.float32))], "new"),
    layer("conv1_2", [blob(np.ones((2, 2), np.float32), legacy=True, encoding="unpacked")], "V1"),
    layer("bn", [blob(np.ones(4, np.float32), encoding="double")], "new"),
)


def read(data: bytes) -> None:
    with contextlib.suppress(WeightsError):
        for blobs in read_layers(np.frombuffer(data, np.uint8)).values():
            assert sum(b.size for b in blobs) * 4 <= len(data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    read(data)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SOUND) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_sound_file_with_some_bytes_changed_is_read_or_refused(changes: list[tuple[int, int]]) -> None:
    data = bytearray(SOUND)
    for at, value in changes:
        data[at] = value
    read(bytes(data))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(SOUND)), st.integers(0, len(SOUND)))
def test_a_sound_file_with_a_piece_cut_out_is_read_or_refused(a: int, b: int) -> None:
    read(SOUND[: min(a, b)] + SOUND[max(a, b) :])


leaf = st.one_of(
    st.builds(number, st.integers(1, 12), st.integers(0, 2**63)),
    st.builds(chunk, st.integers(1, 12), st.binary(max_size=24)),
    st.sampled_from([b"\x2d\x00\x00\x80\x3f", b"\x41" + bytes(8)]),
)
message = st.recursive(
    st.lists(leaf, max_size=6).map(b"".join),
    lambda inner: st.lists(
        st.one_of(leaf, st.builds(chunk, st.sampled_from([1, 2, 6, 7, 100]), inner)), max_size=6
    ).map(b"".join),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(message)
def test_nested_messages_of_the_right_form_and_wrong_content_are_read_or_refused(data: bytes) -> None:
    read(chunk(100, chunk(1, b"c") + chunk(7, data)))
    read(data)

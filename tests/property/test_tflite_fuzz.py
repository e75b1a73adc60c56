"""No bytes make the .tflite reader crash, hang or take memory: they become a graph or one line."""

from __future__ import annotations

import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from streamseg.errors import WeightsError
from streamseg.models.tflite_convert import convert, is_quantised
from streamseg.models.weights.tflite import read_graph
from tests.tflite import deeplab
from tests.unit.test_tflite_convert import MADE

SOUND = [
    deeplab(17).file(len(deeplab(17).tensors) - 1),
    MADE["int8 for each channel"](),
    MADE["a_decoder_of_transposed_convolutions_with_skips"](),
    MADE["channels_cut_and_joined"](),
    MADE["a_dilation_taken_apart_into_a_batch"](),
]
sound = st.sampled_from(SOUND)


def take(data: bytes) -> None:
    """Convert it; anything but WeightsError of one line is a fault, and so is taking much memory."""
    lines: list[str] = []
    tracemalloc.start()
    try:
        graph = read_graph(data)
        convert(graph, quantised=is_quantised(graph))
    except WeightsError as error:
        lines = str(error).splitlines()
    finally:
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert most < 20_000_000
    assert len(lines) <= 1


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    take(data)
    take(data[:4] + b"TFL3" + data[4:])


@settings(max_examples=60, deadline=None)
@given(sound, st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_sound_file_with_some_bytes_changed_is_read_or_refused(
    file: bytes, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(file)
    for at, value in changes:
        data[int(at * (len(data) - 1))] = value
    take(bytes(data))


@settings(max_examples=30, deadline=None)
@given(sound, st.floats(0, 1), st.floats(0, 1))
def test_a_sound_file_with_a_piece_cut_out_is_read_or_refused(file: bytes, a: float, b: float) -> None:
    first, last = sorted(int(at * len(file)) for at in (a, b))
    take(file[:first] + file[last:])


@settings(max_examples=60, deadline=None)
@given(sound, st.floats(0, 1), st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 0xFFFF, 2**16]))
def test_a_number_that_is_extreme_is_read_or_refused(file: bytes, at: float, value: int) -> None:
    place = int(at * (len(file) // 4 - 1)) * 4
    take(file[:place] + value.to_bytes(4, "little") + file[place + 4 :])

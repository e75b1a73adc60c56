"""A segment that has its name is whole, and says so itself when it is not."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from streamseg.errors import OutputError
from streamseg.recorded.segments import (
    FrameRecord,
    SegmentWriter,
    count_pixels,
    keep_leading,
    keep_segment,
    read_frames,
    read_packets,
    read_tail,
    segment_path,
    whole_segments,
)
from streamseg.recorded.selection import Account
from streamseg.recorded.tracks import Packet


def record(seq: int) -> FrameRecord:
    return FrameRecord(seq, None if seq == 1 else seq * 10, seq * 10, False, {0: 5, 255: 1}, b"d" * 32)


def write(folder: Path, index: int, seqs: list[int], account: Account | None = None) -> None:
    writer = SegmentWriter(folder, index)
    for seq in seqs:
        writer.frame(record(seq))
        writer.packet("labels", Packet(seq * 10, True, bytes([seq])))
        writer.packet("overlay", Packet(seq * 10, seq == seqs[0], b"x" * seq))
    assert writer.commit(account) == len(seqs)


def test_what_was_written_comes_back_in_order(tmp_path: Path) -> None:
    write(tmp_path, 0, [0, 1, 2])
    write(tmp_path, 1, [3, 4], Account(decoded=5, taken=5, corrupt=1, line="a line", at_s=[0.5]))
    whole = whole_segments(tmp_path)
    assert sorted(whole) == [0, 1]
    tail = whole[1]
    assert (tail.last, tail.frames, tail.decoded, tail.damage, tail.damaged_at_s) == (
        True,
        2,
        5,
        "a line",
        (0.5,),
    )
    assert list(read_frames(tmp_path, 2)) == [record(i) for i in range(5)]
    assert [p.data for p in read_packets(tmp_path, 2, "labels")] == [bytes([i]) for i in range(5)]
    assert [p.intra for p in read_packets(tmp_path, 2, "overlay")] == [True, False, False, True, False]


def test_a_discarded_part_leaves_nothing(tmp_path: Path) -> None:
    writer = SegmentWriter(tmp_path, 0)
    writer.frame(record(0))
    writer.discard()
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_cannot_be_committed_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("streamseg.recorded.segments.move_into_place", full)
    writer = SegmentWriter(tmp_path, 0)
    with pytest.raises(OSError, match="No space left"):
        writer.commit(None)
    writer.discard()
    assert list(tmp_path.iterdir()) == []


def test_every_changed_byte_and_every_cut_is_noticed(tmp_path: Path) -> None:
    write(tmp_path, 0, [0, 1])
    path = segment_path(tmp_path, 0)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(OutputError, match=r"is damaged|is cut off"):
            read_tail(tmp_path, 0)
        path.write_bytes(whole[:at])
        with pytest.raises(OutputError, match="is cut off"):
            read_tail(tmp_path, 0)


def test_what_lies_behind_a_missing_part_is_removed(tmp_path: Path) -> None:
    for index in (0, 2):
        write(tmp_path, index, [index])
    (tmp_path / "000001.tmp").touch()
    whole = whole_segments(tmp_path)
    assert sorted(whole) == [0, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000.segment", "000002.segment"]
    assert list(keep_leading(tmp_path, whole)) == [0]
    assert [p.name for p in tmp_path.iterdir()] == ["000000.segment"]


def test_a_part_from_elsewhere_is_kept_only_when_it_is_whole(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    write(tmp_path / "there", 7, [3, 4])
    data = segment_path(tmp_path / "there", 7).read_bytes()
    with pytest.raises(OutputError, match="is cut off"):
        keep_segment(tmp_path, 7, data[:-1])
    assert [p.name for p in tmp_path.iterdir()] == ["there"]
    assert keep_segment(tmp_path, 7, data).frames == 2
    assert segment_path(tmp_path, 7).read_bytes() == data


@pytest.mark.parametrize("size", [(3, 5), (4097, 4097)])
def test_pixels_are_counted_exactly(size: tuple[int, int]) -> None:
    labels = np.zeros(size, np.uint8)
    labels[0, :2] = 255
    assert count_pixels(labels) == {0: labels.size - 2, 255: 2}

"""What a file itself says is in it, compared with what came out of it: the evidence for missing pictures.

Evidence is, by container:

| container | evidence |
|---|---|
| MP4, MOV | samples of the index that did not come; a box that is longer than the file |
| AVI | frames of the index that did not come; a RIFF that is longer than the file |
| Matroska, WebM | a segment that is longer than the file; a duration in the header that no stream reaches |
| Ogg | no page that ends the stream at the end of the file |
| ASF | a size in the header above the file's |
| GIF, bare MJPEG | no trailer at the end of the file |
| FLV | a last tag that is cut; a duration in the header that no stream reaches |
| MXF | a footer that the header places behind the file's end; a duration that no stream reaches |
| IVF | a duration in the header that no stream reaches |
| MP4, MOV, FLV, ASF | a second recording behind the first, which FFmpeg leaves out |

A stream reaches the end of its last packet, whose own duration counts. All else proves nothing: durations
that FFmpeg estimates (from the bit rate, or from the last time stamp of MPEG-TS, MPEG-PS and NUT), those of
writers that could not go back to fill them in, counts of frames in a header.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Protocol

from av.container import InputContainer
from av.video.stream import VideoStream

_TIMED = ("matroska", "flv", "mxf", "ivf")
_UNKNOWN = (0, 0xFFFFFFFF)  # of a size that its writer meant to fill in later
_SLACK_FRAMES, _SLACK_S = 2.5, 0.2  # by which headers are wrong, the rate being a guess itself


class Came(Protocol):
    """What was read of a file, up to its end. Streams are named by their index."""

    @property
    def pictures(self) -> int: ...
    @property
    def packets(self) -> int: ...  # of the video, that were not empty
    @property
    def empty(self) -> int: ...
    @property
    def first_dts(self) -> int | None: ...
    @property
    def ends(self) -> Mapping[int, int]: ...  # of each stream, the end of its last packet, in its time base
    @property
    def behind(self) -> Collection[int]: ...  # other videos that began where this one had ended


@dataclass(frozen=True, slots=True)
class Missing:
    """Pictures that an index lists and that did not come (0: not known), and what else shows it."""

    pictures: int = 0
    reasons: tuple[str, ...] = ()

    def told(self, shown: str, decoded: int, corrupt: int) -> str | None:
        """One line; None where nothing is missing and nothing was corrupt."""
        if not corrupt and not self.reasons:
            return None
        text = f"{shown}: damaged; {decoded} pictures could be decoded"
        return "; ".join([text + (f", {corrupt} could not" if corrupt else ""), *self.reasons])


def missing(
    container: InputContainer, video: VideoStream, path: Path | None, fps: Fraction | None, came: Came
) -> Missing:
    """What is missing of a file's video, as far as anything shows it. path: of a local file."""
    names = container.format.name.split(",")
    kind = next((name for name in (*_INDEXED, *_CUT, *_TIMED) if name in names), "")
    lost = max(0, _lost_of_index(video, came, kind)) if kind in _INDEXED else 0
    cut = path is not None and kind in _CUT and _shows(path, _CUT[kind])
    slack_s = max(_SLACK_S, _SLACK_FRAMES / float(fps or 25))
    late = _end_of_header(container, video, came.ends, 0.002 if cut else slack_s)
    if cut and late == "":  # by another stream, perhaps, while this one's last packet is missing
        own = {video.index: came.ends.get(video.index, 0)}
        late = _end_of_header(container, video, own, 0.9 / float(fps or 25))
    if (kind == "matroska" and late == "") or (kind == "avi" and 0 < video.frames <= came.packets):
        cut = False  # of what comes behind the pictures
    timed = kind in _TIMED
    reasons = []
    if lost or cut or (timed and late):
        reasons = [late] if late else ["it is cut off"] if cut else []
    if path is not None and kind in _JOINED and _shows(path, _JOINED[kind]):
        reasons.append("another recording follows in the same file, which was left out; split them")
    if came.behind:
        track = [stream.index for stream in container.streams.video].index(min(came.behind))
        reasons.append(f"its video goes on in track {track}, which was left out")
    return Missing(lost, tuple(reasons))


def _lost_of_index(video: VideoStream, came: Came, kind: str) -> int:
    """How many pictures of the index, from the first one on, are missing; 0 where all packets came.

    FFmpeg passes over AVI's empty packets itself, and hands out those of MP4.
    """
    first, empty = came.first_dts, kind == "mov"
    if first is None:
        return 0
    listed = sum(e.timestamp >= first and (empty or e.size > 0) for e in video.index_entries)
    listed -= came.empty if empty else 0
    return listed - came.pictures if listed > came.packets else 0


def _end_of_header(
    container: InputContainer, video: VideoStream, streams: Mapping[int, int], slack_s: float
) -> str | None:
    """How far these streams end before the header does; "" where one reaches it, None without a duration."""
    if video.duration in _UNKNOWN:
        return None
    if video.duration is not None and video.time_base is not None:
        promised_s = float((video.duration + (video.start_time or 0)) * video.time_base)
        ends = [streams.get(video.index, 0) * video.time_base]
    elif container.duration:
        promised_s = (container.duration + min(0, container.start_time or 0)) / 1e6  # Matroska counts from 0
        bases = {stream.index: stream.time_base for stream in container.streams}
        ends = [end * base for index, end in streams.items() if (base := bases[index]) is not None]
    else:
        return None
    end_s = float(max(ends, default=Fraction(0)))
    return f"it ends at {end_s:.2f} s of {promised_s:.2f} s" if end_s + slack_s < promised_s else ""


def _shows(path: Path, evidence: Callable[[BinaryIO, int], bool]) -> bool:
    try:
        with path.open("rb") as file:
            return evidence(file, path.stat().st_size)
    except OSError:
        return False


def _matroska_cut(file: BinaryIO, size: int) -> bool:
    """Whether the segment, which holds everything, is longer than the file. RFC 8794, 4 to 6."""
    head = file.read(1 << 12)
    at = 4
    header, length = _element_size(head, at)
    if head[:4] != b"\x1aE\xdf\xa3" or header is None:
        return False
    at += length + header
    if head[at : at + 4] != b"\x18S\x80g":
        return False
    segment, length = _element_size(head, at + 4)
    return segment is not None and at + 4 + length + segment > size


def _element_size(data: bytes, at: int) -> tuple[int | None, int]:
    """An EBML element's size, None where its writer did not know it → and the bytes that hold it."""
    if at >= len(data) or not data[at]:
        return None, 0
    length = 9 - data[at].bit_length()
    most = (1 << 7 * length) - 1
    size = int.from_bytes(data[at : at + length], "big") & most
    return (None if size == most else size), length


def _mov_cut(file: BinaryIO, size: int) -> bool:
    """Whether a box of the top level is longer than the file. ISO/IEC 14496-12, 4.2."""
    end = max((end for _, end in _boxes(file, size)), default=0)
    return end > size or (end > 0 and 0 < size - end < 8)


def _mov_joined(file: BinaryIO, size: int) -> bool:
    """Whether there are two indexes at the top level."""
    return sum(name == b"moov" for name, _ in _boxes(file, size)) > 1


def _boxes(file: BinaryIO, size: int) -> list[tuple[bytes, int]]:
    """Name and end of each box of the top level, up to what is no box."""
    boxes: list[tuple[bytes, int]] = []
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if head[4:8] not in _BOXES or not length:
            break
        at += int.from_bytes(head[8:16], "big") if length == 1 else length
        boxes.append((head[4:8], at))
    return boxes


def _avi_cut(file: BinaryIO, size: int) -> bool:
    """Whether one of the RIFF lists, which hold everything, is longer than the file."""
    at = 0
    while at + 12 <= size:
        file.seek(at)
        head = file.read(12)
        length = int.from_bytes(head[4:8], "little")
        if head[:4] != b"RIFF" or length in _UNKNOWN:
            return False
        at += 8 + length + length % 2
        if at > size + 1:
            return True
    return False


def _ogg_cut(file: BinaryIO, size: int) -> bool:
    """Whether the file's last page is not one that ends a stream, or is not whole. RFC 3533, 6."""
    most = 2 * (27 + 255 + 255 * 255)  # of two pages
    begin = max(0, size - most)
    file.seek(begin)
    tail = file.read(most)
    at = tail.rfind(b"OggS\0")
    if at < 0 or at + 27 > len(tail):
        return True
    table = tail[at + 27 : at + 27 + tail[at + 26]]
    return not tail[at + 5] & 4 or at + 27 + tail[at + 26] + sum(table) > len(tail)


def _flv_cut(file: BinaryIO, size: int) -> bool:
    """Whether the file does not end with the length of a tag that begins so far before."""
    if size < 15:
        return True
    file.seek(size - 4)
    length = int.from_bytes(file.read(4), "big")
    if not 11 <= length <= size - 13:
        return True
    file.seek(size - 4 - length)
    return int.from_bytes(file.read(4)[1:], "big") != length - 11


def _flv_joined(file: BinaryIO, size: int) -> bool:
    """Whether a second file begins where a tag should."""
    at = 13  # the header, and the length of the tag before the first
    while at + 13 <= size:
        file.seek(at)
        head = file.read(4)
        if head == b"FLV\1":
            return True
        if head[0] & 0x1F not in (8, 9, 18):
            return False
        at += 11 + int.from_bytes(head[1:], "big") + 4
    return False


def _asf_cut(file: BinaryIO, size: int) -> bool:
    """Whether the size in the file properties is above the file's, unless it was broadcast. ASF, 3.2."""
    return _asf_size(file) > size


def _asf_joined(file: BinaryIO, size: int) -> bool:
    """Whether a second header begins where the size in the file properties ends."""
    file.seek(promised := _asf_size(file))
    return 0 < promised < size and file.read(16) == _ASF_HEADER


def _asf_size(file: BinaryIO) -> int:
    """The size in the file properties; 0 where there is none."""
    head = file.read(1 << 16)
    at = head.find(_ASF_PROPERTIES)
    if at < 0 or at + 92 > len(head):
        return 0
    promised, flags = (
        int.from_bytes(head[at + n : at + n + length], "little") for n, length in ((40, 8), (88, 4))
    )
    return 0 if flags & 1 else promised


def _mxf_cut(file: BinaryIO, size: int) -> bool:
    """Whether the header partition places the footer behind the file's end. SMPTE ST 377-1, 7.1."""
    head = file.read(1 << 16)
    at = head.find(bytes.fromhex("060e2b34020501010d01020101")) + 16
    if at < 16 or at >= len(head):
        return False
    at += 1 + (head[at] & 0x7F if head[at] & 0x80 else 0)  # the length, as BER has it
    return int.from_bytes(head[at + 24 : at + 32], "big") >= size


def _gif_cut(file: BinaryIO, size: int) -> bool:
    """Whether the trailer is missing; zeros behind it are no part of the file. GIF89a, 27."""
    file.seek(max(0, size - (1 << 16)))
    return not file.read().rstrip(b"\0").endswith(b";")


def _mjpeg_cut(file: BinaryIO, size: int) -> bool:
    """Whether the last picture has no end (EOI); zeros behind it are no part of the file."""
    file.seek(max(0, size - (1 << 16)))
    return not file.read().rstrip(b"\0").endswith(b"\xff\xd9")


_INDEXED = ("mov", "avi")
_ASF_HEADER = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_BOXES = (b"ftyp", b"styp", b"moov", b"moof", b"mdat", b"mfra", b"sidx", b"free", b"skip", b"wide", b"uuid")
_CUT: dict[str, Callable[[BinaryIO, int], bool]] = {
    "mov": _mov_cut,
    "matroska": _matroska_cut,
    "avi": _avi_cut,
    "ogg": _ogg_cut,
    "flv": _flv_cut,
    "asf": _asf_cut,
    "mxf": _mxf_cut,
    "gif": _gif_cut,
    "mjpeg": _mjpeg_cut,
}
_JOINED: dict[str, Callable[[BinaryIO, int], bool]] = {
    "mov": _mov_joined,
    "flv": _flv_joined,
    "asf": _asf_joined,
}

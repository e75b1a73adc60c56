"""Mask and LabelSet ⇄ the parts of a ZeroMQ message, as docs/protocol.md specifies them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Annotated, Any, Literal, Protocol, TypeVar, get_args

import msgspec
from msgspec import Meta

from streamseg.errors import WireError
from streamseg.types import ClassInfo, Clock, LabelSet, Mask, Stamp
from streamseg.wire import rle
from streamseg.wire.codec import (
    MAX_DOCUMENT,
    MAX_HEADER,
    MAX_LABELS,
    Encoding,
    check_size,
    decode_array,
    encode_array,
)
from streamseg.wire.fields import (
    Count,
    EngineText,
    LabelSetText,
    Pts,
    Run,
    Side,
    StreamText,
    TimeBase,
    UnixNs,
)

VERSION = 1
"""The protocol's version. New header fields do not change it; a new meaning of an old one does."""

Kind = Literal["mask", "refined", "mask+confidence", "rle"]
"""The kinds of mask message; each has a topic for each stream."""

KINDS: tuple[Kind, ...] = get_args(Kind)

TopicKind = Kind | Literal["same", "picture", "status", "zones", "event", "polygons"]
"""All kinds of message that have a topic for each stream."""

_STAMP = tuple(f.name for f in fields(Stamp))

T = TypeVar("T")


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The header of a mask; the fields are those of types.Mask."""

    version: int
    kind: Kind
    stream: StreamText
    run: Run
    epoch: Count
    seq: Count
    n: Count
    revision: Literal[0, 1]
    refined_seq: Count | None
    pts: Pts | None
    time_base: TimeBase
    captured_unix_ns: UnixNs
    clock: Clock
    published_unix_ns: UnixNs
    shape: tuple[Side, Side]
    encoding: Encoding | Literal["coco-rle"]
    engine: EngineText
    label_set: LabelSetText
    stage_us: dict[str, UnixNs] = {}


class Segmentation(msgspec.Struct, frozen=True):
    """COCO's compressed run lengths."""

    size: tuple[Side, Side]
    counts: str


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """One class of an rle message, named as COCO names an annotation's fields."""

    category_id: Annotated[int, Meta(ge=0, le=254)]
    category: str | None = None
    area: Count
    segmentation: Segmentation


class RleDocument(Header, frozen=True, kw_only=True):
    """The JSON document of an rle message: the header's fields and the classes."""

    segments: Annotated[list[Segment], Meta(max_length=255)]


class ClassRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One class as the labels topic carries it."""

    id: Annotated[int, Meta(ge=0, le=254)]
    name: Annotated[str, Meta(max_length=256)]
    colour: tuple[
        Annotated[int, Meta(ge=0, le=255)],
        Annotated[int, Meta(ge=0, le=255)],
        Annotated[int, Meta(ge=0, le=255)],
    ]
    thin: bool = False


class LabelsDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The document of a labels message."""

    version: int
    kind: Literal["labels"]
    id: LabelSetText
    classes: Annotated[list[ClassRecord], Meta(max_length=255)]


class _Version(msgspec.Struct):
    version: int


@dataclass(frozen=True, slots=True)
class MaskMessage:
    """A mask message whose header has been read and whose payload has not."""

    header: Header
    payload: tuple[bytes, ...]

    @property
    def stream(self) -> str:
        return self.header.stream

    @property
    def place(self) -> tuple[int, int, int]:
        """Where it stands among those of its topic and run. A refinement has its keyframe's n."""
        return self.header.n, self.header.epoch, self.header.seq

    def decode(self) -> Mask:
        """Unpack the payload; raises WireError when it is not what the header says."""
        h = self.header
        size = check_size(*h.shape)
        confidence = None
        if isinstance(h, RleDocument):
            labels = rle.decode_labels(((s.category_id, s.segmentation.counts) for s in h.segments), size)
        elif h.encoding == "coco-rle":
            raise WireError("encoding: coco-rle belongs to rle messages only")
        else:
            labels = decode_array(self.payload[0], h.encoding, size)
            if h.kind == "mask+confidence":
                confidence = decode_array(self.payload[1], h.encoding, size)
        return Mask(
            stamp_of(h),
            labels,
            h.label_set,
            h.engine,
            h.revision,
            h.refined_seq,
            confidence,
            h.stage_us,
        )


def stamp_of(header: msgspec.Struct) -> Stamp:
    """The stamp in a header, of a mask or a picture."""
    values = {name: getattr(header, name) for name in _STAMP}
    return Stamp(**values | {"time_base": Fraction(*values["time_base"])})


def stamp_fields(stamp: Stamp) -> dict[str, Any]:
    """A stamp as fields of a header."""
    values = {name: getattr(stamp, name) for name in _STAMP}
    return values | {"time_base": stamp.time_base.as_integer_ratio()}


def topic_of(kind: TopicKind, stream: str) -> bytes:
    """The topic of a stream's messages of one kind; the slash ends it, since subscriptions match prefixes."""
    return f"{kind}/{stream}/".encode()


def labels_topic(label_set: str) -> bytes:
    return f"labels/{label_set}/".encode()


def encode_mask(
    mask: Mask,
    encoding: Encoding,
    *,
    kind: Kind = "mask",
    label_set: LabelSet | None = None,
    payload: Sequence[bytes] | None = None,
) -> list[bytes]:
    """Make the parts of one message.

    label_set gives an rle message its class names. payload holds what encode_array made of labels (and
    confidence) where the caller has it already.
    """
    if (kind == "refined") != (mask.revision == 1):
        raise WireError(f"revision: {mask.revision} does not go on a {kind} topic")
    check_size(*mask.size)
    packing: Any = "coco-rle" if kind == "rle" else encoding
    header = Header(
        version=VERSION,
        kind=kind,
        **stamp_fields(mask.stamp),
        revision=mask.revision,
        refined_seq=mask.refined_seq,
        shape=mask.size,
        encoding=packing,
        engine=mask.engine,
        label_set=mask.label_set,
        stage_us=mask.stage_us,
    )
    topic = topic_of(kind, mask.stream)
    if kind == "rle":
        document = msgspec.json.encode(_rle_document(header, mask, label_set))
        if len(document) > MAX_DOCUMENT:
            raise WireError(f"segments: {len(document)} bytes of JSON; the most is {MAX_DOCUMENT}")
        return [topic, document]
    if payload is None:
        payload = encode_payload(mask, encoding, confidence=kind == "mask+confidence")
    return [topic, msgspec.msgpack.encode(header), *payload]


def encode_payload(mask: Mask, encoding: Encoding, *, confidence: bool) -> list[bytes]:
    """Pack the labels and, when asked for, the confidence; raises WireError where the mask has none."""
    parts = [encode_array(mask.labels, encoding)]
    if confidence:
        if mask.confidence is None:
            raise WireError("confidence: the mask has none")
        parts.append(encode_array(mask.confidence, encoding))
    return parts


def encode_labels(label_set: LabelSet) -> list[bytes]:
    """Make the parts of a label set's message."""
    classes = [
        ClassRecord(id=i, name=c.name, colour=c.colour, thin=c.thin) for i, c in enumerate(label_set.classes)
    ]
    document = LabelsDocument(version=VERSION, kind="labels", id=label_set.id, classes=classes)
    return [labels_topic(label_set.id), msgspec.msgpack.encode(document)]


def parse_message(parts: Sequence[bytes]) -> MaskMessage | LabelSet:
    """Read everything but the payload; raises WireError, and nothing else, on what is not a message."""
    if not 2 <= len(parts) <= 4:
        raise WireError(f"message: must have 2 to 4 parts, has {len(parts)}")
    topic, head = parts[0], parts[1]
    if len(topic) > 512:
        raise WireError(f"topic: must be at most 512 bytes; is {len(topic)}")
    kind = topic.partition(b"/")[0].decode("ascii", "replace")
    if kind == "labels":
        return _parse_labels(topic, head, len(parts))
    if kind not in KINDS:
        raise WireError(f"topic: {topic[:80]!r} is of an unknown kind")
    wanted = {"mask": 3, "refined": 3, "mask+confidence": 4, "rle": 2}[kind]
    if len(parts) != wanted:
        raise WireError(f"message: {kind} must have {wanted} parts, has {len(parts)}")
    header: Header = (
        read_document(head, RleDocument, MAX_DOCUMENT, json=True)
        if kind == "rle"
        else read_document(head, Header, MAX_HEADER)
    )
    if header.kind != kind or topic != topic_of(kind, header.stream):
        raise WireError(f"topic: {topic[:80]!r} carries {header.kind!r} of stream {header.stream!r}")
    if (header.revision == 1) != (kind == "refined"):
        raise WireError(f"revision: {header.revision} does not go on a {kind} topic")
    if (header.encoding == "coco-rle") != (kind == "rle"):
        raise WireError(f"encoding: {header.encoding} does not go on a {kind} topic")
    if isinstance(header, RleDocument) and any(s.segmentation.size != header.shape for s in header.segments):
        raise WireError("segments: a size differs from the shape")
    check_size(*header.shape)
    return MaskMessage(header, tuple(parts[2:]))


def decode_message(parts: Sequence[bytes]) -> Mask | LabelSet:
    """Read a whole message; raises WireError, and nothing else, on what is not one."""
    message = parse_message(parts)
    return message.decode() if isinstance(message, MaskMessage) else message


def _rle_document(header: Header, mask: Mask, label_set: LabelSet | None) -> RleDocument:
    names = dict(enumerate(label_set.names)) if label_set else {}
    segments = [
        Segment(
            category_id=value,
            category=names.get(value),
            area=area,
            segmentation=Segmentation(mask.size, counts),
        )
        for value, area, counts in rle.encode_labels(mask.labels)
    ]
    return RleDocument(**msgspec.structs.asdict(header), segments=segments)


def _parse_labels(topic: bytes, head: bytes, parts: int) -> LabelSet:
    if parts != 2:
        raise WireError(f"message: labels must have 2 parts, has {parts}")
    document = read_document(head, LabelsDocument, MAX_LABELS)
    if topic != labels_topic(document.id):
        raise WireError(f"topic: {topic[:80]!r} carries label set {document.id!r}")
    if [c.id for c in document.classes] != list(range(len(document.classes))):
        raise WireError("classes: ids must be 0, 1, 2 … in order")
    classes = tuple(ClassInfo(c.name, c.colour, c.thin) for c in document.classes)
    return LabelSet(document.id, classes)


class _OfStream(Protocol):
    @property
    def stream(self) -> str: ...


S = TypeVar("S", bound=_OfStream)


def read_of_stream(
    parts: Sequence[bytes], name: TopicKind, kind: type[S], longest: int, *, json: bool = True
) -> S:
    """Read a message of a topic and a document, whose stream must be the topic's."""
    if len(parts) != 2:
        raise WireError(f"message: {name} must have 2 parts, has {len(parts)}")
    document = read_document(parts[1], kind, longest, json=json)
    if parts[0] != topic_of(name, document.stream):
        raise WireError(f"topic: {parts[0][:80]!r} carries {name} of stream {document.stream!r}")
    return document


def read_document(data: bytes, kind: type[T], longest: int, *, json: bool = False) -> T:
    """Read a document of a known version: MessagePack, or JSON."""
    if len(data) > longest:
        raise WireError(f"header: must be at most {longest} bytes; is {len(data)}")
    decode: Any = msgspec.json.decode if json else msgspec.msgpack.decode
    try:
        version = decode(data, type=_Version).version
        if version != VERSION:
            raise WireError(
                f"version: this reader knows {VERSION}, the message is {version}; "
                "install the streamseg that the daemon runs"
            )
        document: T = decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise WireError(f"header: {error}") from error
    return document

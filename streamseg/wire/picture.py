"""Preview ⇄ the parts of a `picture/<stream>/` message: the frame that a mask belongs to, as a JPEG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from streamseg.errors import WireError
from streamseg.types import Preview
from streamseg.wire.codec import MAX_HEADER, MAX_PICTURE, check_size
from streamseg.wire.fields import OfFrame, Side
from streamseg.wire.message import VERSION, read_document, stamp_fields, stamp_of, topic_of


class PictureHeader(OfFrame, frozen=True, kw_only=True):
    """The header of a picture; the fields are those of types.Preview."""

    kind: Literal["picture"]
    frame_shape: tuple[Side, Side]
    encoding: Literal["jpeg"]


def encode_picture(picture: Preview) -> list[bytes]:
    """Make the parts of the message; raises WireError for what no message may carry."""
    check_size(*picture.size)
    if len(picture.jpeg) > MAX_PICTURE:
        raise WireError(f"picture: {len(picture.jpeg)} bytes of JPEG; the most is {MAX_PICTURE}")
    header = PictureHeader(
        version=VERSION,
        kind="picture",
        **stamp_fields(picture.stamp),
        shape=picture.size,
        frame_shape=picture.frame_size,
        encoding="jpeg",
    )
    return [topic_of("picture", picture.stream), msgspec.msgpack.encode(header), picture.jpeg]


def parse_picture(parts: Sequence[bytes]) -> Preview:
    """Read a picture message, without looking into the JPEG; raises WireError, and nothing else."""
    if len(parts) != 3:
        raise WireError(f"message: picture must have 3 parts, has {len(parts)}")
    topic, head, jpeg = parts
    header = read_document(head, PictureHeader, MAX_HEADER)
    if topic != topic_of("picture", header.stream):
        raise WireError(f"topic: {topic[:80]!r} carries 'picture' of stream {header.stream!r}")
    if not jpeg.startswith(b"\xff\xd8") or len(jpeg) > MAX_PICTURE:
        raise WireError(f"payload: is not a JPEG of at most {MAX_PICTURE} bytes")
    return Preview(stamp_of(header), jpeg, check_size(*header.shape), check_size(*header.frame_shape))

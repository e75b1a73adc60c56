"""Masks ⇄ ZeroMQ message parts: pure, no sockets. docs/protocol.md is the specification."""

from streamseg.wire.codec import Encoding, decode_array, encode_array
from streamseg.wire.limits import MAX_DOCUMENT, MAX_HEADER, MAX_LABELS, MAX_PART, MAX_PIXELS, MAX_SIDE
from streamseg.wire.message import (
    KINDS,
    VERSION,
    Header,
    Kind,
    MaskMessage,
    decode_message,
    encode_labels,
    encode_mask,
    encode_payload,
    labels_topic,
    parse_message,
    topic_of,
)
from streamseg.wire.snapshot import (
    MAX_PREFIXES,
    default_snapshot_endpoint,
    parse_snapshot_reply,
    parse_snapshot_request,
    snapshot_reply,
    snapshot_request,
)

__all__ = [
    "KINDS",
    "MAX_DOCUMENT",
    "MAX_HEADER",
    "MAX_LABELS",
    "MAX_PART",
    "MAX_PIXELS",
    "MAX_PREFIXES",
    "MAX_SIDE",
    "VERSION",
    "Encoding",
    "Header",
    "Kind",
    "MaskMessage",
    "decode_array",
    "decode_message",
    "default_snapshot_endpoint",
    "encode_array",
    "encode_labels",
    "encode_mask",
    "encode_payload",
    "labels_topic",
    "parse_message",
    "parse_snapshot_reply",
    "parse_snapshot_request",
    "snapshot_reply",
    "snapshot_request",
    "topic_of",
]

"""How many threads a decoder has: its share of the cores."""

from __future__ import annotations

import logging

from streamseg.runtime.cpus import usable_cores
from streamseg.sources.jpeg import JpegDecoder
from streamseg.sources.reading import OpenSource

log = logging.getLogger(__name__)

MOST_THREADS = 16
"""For one decoder; FFmpeg's own limit."""


def share_cores(source: OpenSource, streams: int, stream: str) -> None:
    """Give a decoder its share of the cores, before it decodes; 0 streams leave that to FFmpeg."""
    decoder = source.decoder
    if isinstance(decoder, JpegDecoder):
        return
    # Frame threads hold pictures back, and of a GPU's decoder each takes one of the 32 surfaces that it has.
    # Those of FFV1 conceal what is damaged as it happens, differently each time.
    by_slices = source.endless or source.by_device or decoder.name == "ffv1"
    if not decoder.is_open:
        decoder.thread_type = "SLICE" if by_slices else "AUTO"
        if streams:
            decoder.thread_count = decoder_threads(usable_cores(), streams)
    if streams:
        log.debug("%s: decoder threads: %d, streams: %d", stream, decoder.thread_count, streams)


def decoder_threads(cores: int, streams: int) -> int:
    """Threads for each decoder: all together as many as there are cores, or one for each stream."""
    return max(1, min(MOST_THREADS, cores // streams))

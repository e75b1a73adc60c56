"""Interlaced pictures made whole: one for each that was decoded, from that one alone."""

from __future__ import annotations

from dataclasses import replace

import av

from streamseg.sources.reading import DecodedPicture


def deinterlaced(picture: DecodedPicture) -> DecodedPicture:
    """Interpolate every other line of an interlaced picture along its edges; any other comes back as it is.

    FFmpeg's estdif: bwdif and yadif also look at the pictures before and behind, so that a part made by
    itself would begin with another picture than in one go.
    """
    image = picture.image
    if not image.interlaced_frame:
        return picture
    graph = av.filter.Graph()
    assert image.time_base is not None, "a decoded video frame has a time base"
    source = graph.add_buffer(
        width=image.width, height=image.height, format=image.format, time_base=image.time_base
    )
    graph.link_nodes(source, graph.add("estdif", "mode=frame"), graph.add("buffersink")).configure()
    graph.push(image)
    graph.push(None)
    made = graph.pull()
    assert isinstance(made, av.VideoFrame), "video in, video out"
    made.pts, made.time_base = image.pts, image.time_base
    return replace(picture, image=made)

"""Masks leave the process here: the publishing socket, encodings on demand, snapshots for late joiners."""

from streamseg.publish.publisher import Publisher, PublisherStats

__all__ = ["Publisher", "PublisherStats"]

"""Whatever is unchanged, refined, lost, repeated and restarted: a frame has the labels that hold for it."""

from __future__ import annotations

import contextlib
from typing import Literal

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamseg.client.inbox import Inbox
from streamseg.config import PublishConfig
from streamseg.publish import Publisher
from streamseg.types import Mask, Stamp
from tests.masks import make_mask

Step = tuple[
    Literal["mask", "unchanged", "unchanged of an unknown one", "refined", "epoch", "restart", "snapshot"],
    bool,  # whether the messages reach the reader
]
steps = st.lists(
    st.tuples(
        st.sampled_from(
            ["mask", "unchanged", "unchanged", "unchanged", "unchanged of an unknown one", "refined", "epoch",
             "restart", "snapshot"]
        ),
        st.integers(0, 4).map(bool),
    ),
    max_size=60,
)  # fmt: skip


class Camera:
    """A stream's publisher, without its sockets; a mask's label is one that no other mask of its run has."""

    def __init__(self) -> None:
        self.restart()
        self.truth: dict[tuple[int, int, int], set[int]] = {}  # run, epoch, seq: labels that hold

    def restart(self) -> None:
        self.publisher = Publisher(PublishConfig(encoding="raw"))
        self.publisher._demand.note(True, b"")
        self.epoch = self.seq = 0
        self.real: Mask | None = None
        self.refined: Stamp | None = None

    def messages(self, what: str) -> list[list[bytes]]:
        """Publish one frame, or the refinement of the last real one."""
        if what == "refined":
            if self.real is None or self.real.stamp == self.refined:
                return []
            self.refined = self.real.stamp
            label = int(self.real.labels[0, 0])
            refined = make_mask(self.real.seq, epoch=self.real.epoch, revision=1)
            return self._publish(refined, label + 100)
        if what == "epoch":
            self.epoch, self.seq, self.real = self.epoch + 1, 0, None
        self.seq += 1
        if what == "unchanged" and self.real is not None:
            mask = make_mask(self.seq, epoch=self.epoch, same_as=self.real.seq)
            return self._publish(mask, int(self.real.labels[0, 0]))
        if what == "unchanged of an unknown one":  # published whole
            return self._publish(make_mask(self.seq, epoch=self.epoch, same_as=0), 99)
        label = (len(self.truth) * 7) % 99
        self.real = make_mask(self.seq, epoch=self.epoch, labels=np.full((2, 3), label, np.uint8))
        return self._publish(self.real, label)

    def snapshot(self) -> list[list[bytes]]:
        return self.publisher._last.matching([b"mask/", b"refined/", b"same/"])

    def _publish(self, mask: Mask, label: int) -> list[list[bytes]]:
        labels = np.full((2, 3), label, np.uint8)
        whole = make_mask(
            mask.seq, epoch=mask.epoch, same_as=mask.same_as, revision=mask.revision, labels=labels
        )
        key = (self.publisher.run, mask.epoch, mask.seq)
        self.truth.setdefault(key, set()).update({label, label % 100, label % 100 + 100})
        found = self.publisher._messages_of(whole)
        return [m for m in found if m[0].startswith((b"mask/", b"same/", b"refined/"))]


@settings(max_examples=150, deadline=None)
@given(steps=steps, newest=st.booleans(), read_every=st.integers(1, 5))
def test_each_frame_has_the_labels_that_hold_for_it(steps: list[Step], newest: bool, read_every: int) -> None:
    camera, box = Camera(), Inbox(None, newest=newest, queue=200)
    sent = reached = 0
    given_: list[Mask] = []
    snapshots = False
    for i, (what, reaches) in enumerate(steps):
        if what == "restart":
            camera.restart()
            continue
        if what == "snapshot":
            box.put_snapshot(camera.snapshot())
            snapshots = True
        else:
            for message in camera.messages(what):
                sent += 1
                if reaches:
                    reached += 1
                    box.put(message)
        if i % read_every == 0:
            with contextlib.suppress(TimeoutError):
                while True:
                    given_.append(box.take(timeout_s=0))
    for mask in given_:
        assert int(mask.labels[0, 0]) in camera.truth[mask.run, mask.epoch, mask.seq]
        assert (mask.labels == mask.labels[0, 0]).all()
    for run in {mask.run for mask in given_}:
        plain = [m for m in given_ if m.run == run and m.revision == 0]
        places = [(m.n, m.epoch, m.seq) for m in plain]
        assert places == sorted(set(places))  # in order, none twice
        unchanged = [(m.n, m.epoch, m.seq) for m in given_ if m.run == run and m.same_as is not None]
        assert unchanged == sorted(set(unchanged)) or newest  # a refined one may come first to a late reader
        assert len(set(unchanged)) == len(unchanged)
    assert box.stats.bad == 0
    assert box.stats.lost <= sent - reached
    if sent == reached and not snapshots:
        assert (box.stats.lost, box.stats.repeated) == (0, 0)

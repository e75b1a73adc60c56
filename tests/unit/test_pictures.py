"""Masks that are saved: none replaces another, nor any file that is there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from streamseg.cli.pictures import coloured_png, name_of, save_new
from streamseg.config import PublishConfig
from streamseg.errors import OutputError
from streamseg.outputs.png import png
from streamseg.publish import Publisher
from streamseg.runtime.files import new_file
from tests.integration.command import Command, streamseg
from tests.masks import STREET, make_mask
from tests.ports import free_port

__all__ = ["streamseg"]


def test_masks_of_other_runs_epochs_frames_and_revisions_have_other_names() -> None:
    masks = [make_mask(seq, run=run, epoch=epoch) for seq in (1, 2) for run in (5, 6) for epoch in (0, 1)]
    masks += [make_mask(1, run=5, epoch=0, revision=1), make_mask(1, run=5, epoch=0, stream="yard")]
    assert len({name_of(mask) for mask in masks}) == len(masks)
    assert name_of(make_mask(42, run=0x13D04214BE7603)) == "gate-13d04214be7603-000-00000042.png"


def test_an_unchanged_frame_has_the_name_of_the_mask_that_holds() -> None:
    assert name_of(make_mask(9, same_as=7)) == name_of(make_mask(7))


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_a_name_that_is_taken_gets_a_number(
    links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not links:  # as on exFAT, or a share

        def refuse(*_: object) -> None:
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)
    mask = make_mask(1, run=5)
    (tmp_path / name_of(mask)).write_text("mine")
    dangling = tmp_path / name_of(mask).replace(".png", "-2.png")
    dangling.symlink_to(tmp_path / "elsewhere")
    found = [save_new(tmp_path, mask, bytes([i])) for i in range(3)]
    assert [path.name[-8:] for path in found] == [f"01-{i}.png" for i in (3, 4, 5)]
    assert [path.read_bytes() for path in found] == [b"\0", b"\1", b"\2"]
    assert (tmp_path / name_of(mask)).read_text() == "mine"
    assert not (tmp_path / "elsewhere").exists()
    assert len(list(tmp_path.iterdir())) == 5  # nothing half is left


def test_what_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"gate-.*\.png: cannot be written \(No such file or directory\)"):
        save_new(tmp_path / "nowhere", make_mask(1), b"x")
    with pytest.raises(OSError, match="too long"):
        new_file(tmp_path / ("x" * 300), b"x")
    assert list(tmp_path.iterdir()) == []


def test_the_pictures_hold_the_labels() -> None:
    mask = make_mask(3)
    for data in (png(mask.labels), coloured_png(mask, None)):
        read = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(read.reshape(*mask.size, -1)[..., 0], mask.labels)
    assert coloured_png(mask, STREET) != coloured_png(mask, None)


def test_subscribing_into_one_folder_goes_on_across_runs_of_the_daemon(
    tmp_path: Path, streamseg: Command
) -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    for run in range(3):
        with Publisher(PublishConfig(endpoint=endpoint), [STREET]) as publisher:
            publisher.put(make_mask(7))  # the same epoch and frame each time
            ended = streamseg("subscribe", publisher.endpoint, "--save", tmp_path / "to", "--count", 1)
            assert ended == (0, "", "")
        assert len(list((tmp_path / "to").glob("gate-*-000-00000007.png"))) == run + 1

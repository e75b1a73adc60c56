"""What a page and a client of control.endpoint may add: nothing that lies on the daemon's machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamseg.config import StreamConfig
from streamseg.daemon.reload import check_sources
from streamseg.daemon.remote import check_remote
from streamseg.errors import ConfigError, ControlError


@pytest.fixture
def own(tmp_path: Path) -> list[StreamConfig]:
    """Configured streams: a file, a camera, an address, the demo clip, and an address that cannot work."""
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "street.mp4").touch()
    sources = [
        str(tmp_path / "clips" / "street.mp4"),
        "/dev/video3",
        "rtsp://cam/live",
        "demo:",
        "gopher://x",
    ]
    return [StreamConfig(source=source) for source in sources]


@pytest.mark.parametrize(
    "source",
    [
        "rtsp://10.0.0.9/h264",
        "rtsp://eye:its-own@10.0.0.9/h264",
        "https://host/list.m3u8",
        "udp://@:5000",
        "demo:",
        "/dev/video3",
        "{clips}/street.mp4",
        "{clips}/other.mp4",
        "file://{clips}/other.mp4",
        "{clips}/../clips/other.mp4",
    ],
)
def test_addresses_and_what_is_configured_may_be_added(
    source: str, own: list[StreamConfig], tmp_path: Path
) -> None:
    check_remote("hall", StreamConfig(source=source.format(clips=tmp_path / "clips")), own)


@pytest.mark.parametrize(
    "source",
    [
        "/etc/passwd",
        "file:///home/op/holiday.mp4",
        "FILE:///home/op/holiday.mp4",
        " file:///home/op/holiday.mp4",
        "file:///home/op/%2e%2e/holiday.mp4",
        "{clips}/deeper/other.mp4",
        "{clips}/../other.mp4",
        "{clips}/away/other.mp4",
        "{clips}/away.mp4",
        "{clips}-2/other.mp4",
        "{clips}",
        "street.mp4",
        "~/holiday.mp4",
        "/dev/video0",
        "/dev/v4l/by-id/usb-webcam",
        "/dev/../dev/video0",
        "/proc/self/fd/3",
    ],
)
def test_other_files_and_cameras_of_the_machine_may_not(
    source: str, own: list[StreamConfig], tmp_path: Path
) -> None:
    clips, elsewhere = tmp_path / "clips", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "other.mp4").touch()
    (clips / "away").symlink_to(elsewhere)
    (clips / "away.mp4").symlink_to(elsewhere / "other.mp4")
    with pytest.raises(
        ControlError, match=r"^streams\.hall\.source: .* of the daemon's machine|outside"
    ) as caught:
        check_remote("hall", StreamConfig(source=source.format(clips=clips)), own)
    assert caught.value.code == "bad settings"


@pytest.mark.parametrize("source", ["file://{clips}/a%00b.mp4", "file://%00", "FILE:///etc/passwd%00.mp4"])
def test_what_no_file_can_be_called_is_said_by_who_checks_sources(
    source: str, own: list[StreamConfig], tmp_path: Path
) -> None:
    wanted = StreamConfig(source=source.format(clips=tmp_path / "clips"))
    check_remote("hall", wanted, own)
    with pytest.raises(ConfigError, match=r"^streams\.hall\.source: .*names no file"):
        check_sources({"hall": wanted})


def test_whether_a_file_exists_is_not_told(own: list[StreamConfig], tmp_path: Path) -> None:
    (tmp_path / "there.mp4").touch()
    told = []
    for name in ("there.mp4", "absent.mp4"):
        with pytest.raises(ControlError) as caught:
            check_remote("hall", StreamConfig(source=str(tmp_path / name)), own)
        told.append(str(caught.value).replace(name, ""))
    assert told[0] == told[1]


@pytest.mark.parametrize(
    "source", ["rtsp://eye@cam/live", "rtsp://eye@other/live", "demo:", "{clips}/other.mp4"]
)
def test_no_password_file_may_be_named(source: str, own: list[StreamConfig], tmp_path: Path) -> None:
    wanted = StreamConfig(source=source.format(clips=tmp_path / "clips"), password_file="/etc/passwords")
    with pytest.raises(ControlError, match=r"^streams\.hall\.password_file: may only be set on the daemon's"):
        check_remote("hall", wanted, own)

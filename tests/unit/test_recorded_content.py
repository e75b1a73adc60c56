"""The proof covers everything that is read, and notices what changes meanwhile."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from streamseg.errors import SourceError
from streamseg.recorded.content import read_content, states_of
from streamseg.recorded.inputs import Input


def parts(one: Input) -> list[str]:
    return [part.name if isinstance(part, Path) else part for part in states_of(one)]


def test_a_files_digest_is_its_own(tmp_path: Path) -> None:
    clip = tmp_path / "a.mp4"
    clip.write_bytes(b"video")
    content = read_content(Input(str(clip), "a"))
    assert (content.sha256, content.bytes) == (hashlib.sha256(b"video").hexdigest(), 5)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.ffconcat", "ffconcat version 1.0\nfile a.ts\nduration 1\nfile 'b c.ts'\n"),
        ("list.txt", "ffconcat version 1.0\nfile a.ts\nfile b\\ c.ts\n"),
        ("list.m3u8", '#EXTM3U\n#EXT-X-MAP:URI="a.ts"\n#EXTINF:1,\nb c.ts\n#EXT-X-ENDLIST\n'),
        ("bom.m3u8", "\ufeff#EXTM3U\r\n#EXTINF:1,\r\na.ts\r\n#EXTINF:1,\r\nb c.ts\r\n#EXT-X-ENDLIST\r\n"),
        ("master.m3u8", "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nvariant.m3u8\n"),
    ],
)
def test_a_list_is_proved_with_what_it_names(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "a.ts").write_bytes(b"first")
    (tmp_path / "b c.ts").write_bytes(b"second")
    (tmp_path / "variant.m3u8").write_text("#EXTM3U\n#EXTINF:1,\na.ts\n#EXTINF:1,\nb c.ts\n#EXT-X-ENDLIST\n")
    (tmp_path / name).write_bytes(text.encode())
    one = Input(str(tmp_path / name), "list")
    assert parts(one)[-2:] == ["a.ts", "b c.ts"]
    before = read_content(one)
    assert not before.changed(one)
    (tmp_path / "b c.ts").write_bytes(b"SECOND")
    assert before.changed(one)
    assert read_content(one).sha256 != before.sha256
    (tmp_path / "b c.ts").unlink()
    assert read_content(one).missing == (str(tmp_path / "b c.ts"),)


@pytest.mark.parametrize("name", ["media.m3u8", "master.m3u8", "event.m3u8"])
def test_a_playlist_that_is_still_being_written_is_refused(tmp_path: Path, name: str) -> None:
    media = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.ts\n"
    (tmp_path / "a.ts").write_bytes(b"first")
    (tmp_path / "media.m3u8").write_text(media)
    (tmp_path / "event.m3u8").write_text(media.replace("#EXTINF", "#EXT-X-PLAYLIST-TYPE:EVENT\n#EXTINF"))
    (tmp_path / "master.m3u8").write_text("#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nmedia.m3u8\n")
    with pytest.raises(SourceError, match=r"m3u8: is a live stream without an end, or still being written"):
        states_of(Input(str(tmp_path / name), "list"))


def test_a_list_whose_parts_cannot_be_told_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.mpd").write_text('<?xml version="1.0"?>\n<MPD type="static"></MPD>\n')
    with pytest.raises(SourceError, match=r"x\.mpd: is a DASH list of other files"):
        states_of(Input(str(tmp_path / "x.mpd"), "x"))


def test_what_grows_or_is_replaced_has_changed_and_what_is_touched_has_not(tmp_path: Path) -> None:
    clip = tmp_path / "a.mkv"
    clip.write_bytes(b"one")
    one = Input(str(clip), "a")
    content = read_content(one)
    os.utime(clip, (1, 1))
    assert not content.changed(one)
    with clip.open("ab") as file:
        file.write(b" more")
    assert content.grown()
    assert content.changed(one)
    content = read_content(one)
    (tmp_path / "b.mkv").write_bytes(b"ONE MORE")
    os.replace(tmp_path / "b.mkv", clip)
    assert not content.grown()
    assert content.changed(one)
    content = read_content(one)
    clip.unlink()
    assert content.changed(one)

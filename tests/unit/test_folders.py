"""Folders of ours: which one it is, and whom it must not belong to."""

from __future__ import annotations

from pathlib import Path

import pytest

from streamseg.errors import OutputError
from streamseg.runtime.folders import cache_folder


def test_the_cache_is_systemds_then_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", "/var/cache/streamseg/site:/other")
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.setenv("HOME", "/home/anna")
    assert cache_folder("plans") == Path("/var/cache/streamseg/site/plans")
    monkeypatch.delenv("CACHE_DIRECTORY")
    assert cache_folder("plans") == Path("/x/streamseg/plans")
    for value in ("", "relative"):  # which the standard says to ignore
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder("plans") == Path("/home/anna/.cache/streamseg/plans")


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CACHE_DIRECTORY", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 2**31 - 7)  # a user without an entry in /etc/passwd
    with pytest.raises(OutputError, match="set XDG_CACHE_HOME"):
        cache_folder("plans")

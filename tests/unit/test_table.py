"""What streamseg watch and subscribe show of a stream."""

from __future__ import annotations

import io
import time

import pytest

from streamseg.cli.table import Row, line_of, table_of
from streamseg.runtime.drawing import Console
from tests.masks import STREET, make_mask


def test_unchanged_frames_count_in_the_rate_and_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    row = Row(make_mask(0, n=0))
    for seq in range(11):  # of ten frames a second, of which every fifth has a mask
        row.take(
            make_mask(seq, n=seq // 5, same_as=seq // 5 * 5 if seq % 5 else None), STREET, seq - seq // 5
        )
        now_s += 0.1
    now_s -= 0.1
    assert row.fps == pytest.approx(10)
    assert "unchanged" not in line_of(row)
    row.take(make_mask(11, n=2, same_as=10), STREET, 9)
    assert " fps, unchanged: " in line_of(row)
    console = Console(file=io.StringIO(), width=120, color_system=None)
    console.print(table_of([row], coloured=False, narrow=False))
    assert "unchanged  " in console.file.getvalue()  # type: ignore[attr-defined]

"""The contact sheet: overlay pictures spread over the whole video, each with its time."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np

from streamseg.types import U8

COLUMNS, ROWS = 4, 6
CELL_WIDTH = 320
_GAP = 4


def contact_sheet(video: Path, frames: int) -> U8:
    """Take COLUMNS · ROWS pictures evenly from a video of so many frames → RGB; fewer where it is short."""
    count = min(frames, COLUMNS * ROWS)
    wanted = [(2 * i + 1) * frames // (2 * count) for i in range(count)]
    cells = []
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stamps = sorted(p.pts for p in container.demux(stream) if p.pts is not None)
        for index in wanted:
            container.seek(stamps[index], stream=stream, backward=True)
            frame = next(f for f in container.decode(stream) if f.pts is not None and f.pts >= stamps[index])
            rgb = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            cells.append(_cell(rgb, frame.time or 0.0))
    height, width = cells[0].shape[:2]
    rows = -(-count // COLUMNS)
    columns = min(count, COLUMNS)
    sheet = np.full((rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, 3), 24, np.uint8)
    for i, cell in enumerate(cells):
        top = _GAP + i // COLUMNS * (height + _GAP)
        left = _GAP + i % COLUMNS * (width + _GAP)
        sheet[top : top + height, left : left + width] = cell
    return sheet


def write_sheet(path: Path, video: Path, frames: int) -> None:
    coded, data = cv2.imencode(".png", contact_sheet(video, frames)[..., ::-1])
    if not coded:
        raise OSError(f"{path}: PNG encoding failed")
    path.write_bytes(data.tobytes())


def _cell(rgb: U8, time_s: float) -> U8:
    height = max(2, round(rgb.shape[0] * CELL_WIDTH / rgb.shape[1]))
    cell = np.asarray(cv2.resize(rgb, (CELL_WIDTH, height), interpolation=cv2.INTER_AREA), np.uint8)
    seconds = int(time_s)
    text = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}.{int(time_s * 10) % 10}"
    for colour, thick in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(cell, text, (6, 16), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, thick, cv2.LINE_AA)
    return cell

"""Opens files of torch: tensors and plain values only, and nothing that a file could run."""

from __future__ import annotations

import argparse
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from streamseg.config.reading import open_regular
from streamseg.errors import WeightsError, one_line
from streamseg.runtime.file_kinds import kind_of

# Where checkpoints keep the network's weights, the likeliest first; averaged ones where there are no others.
TABLES = (
    "model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "network",
    "net",
    "module",
    "weights",
    "params",
    "ema",
    "model_ema",
    "ema_model",
    "state_dict_ema",
    "ema_state_dict",
    "model_ema_state_dict",
    "params_ema",
)
DEEPEST = 4  # tables in tables
MOST_UNPACKED = 4  # times a file's size
_PLAIN = [argparse.Namespace, np.dtype, *(type(np.dtype(t)) for t in ("f4", "f8", "i4", "i8", "?"))]


def load_tensors(path: Path, device: str | torch.device = "cpu") -> object:
    """What a file of torch holds: tensors, numbers, text, and tables and lists of them.

    Runs nothing that the file brings along, and never will: a file that needs that is refused. Raises
    WeightsError of one line, which says what the file is.
    """
    try:
        with open_regular(path) as file:
            start = file.read(64)
        if problem := _packed(path):
            raise WeightsError(f"{path}: {problem}")
        with warnings.catch_warnings(), torch.serialization.safe_globals(_plain()):
            warnings.simplefilter("ignore")  # about unexpected pickles, which it then refuses
            return torch.load(path, map_location=device, weights_only=True)
    except WeightsError:
        raise
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or one_line(error)})") from error
    except MemoryError:
        raise
    except Exception as error:  # torch and pickle raise many kinds for a damaged file
        raise WeightsError(f"{path}: {_why_not(start, str(error))}") from error


def tables_of(loaded: object) -> Mapping[str, object] | None:
    """The network's table of tensors in what a file holds, inside the usual others; None without one."""
    for _ in range(DEEPEST):
        if not isinstance(loaded, Mapping) or any(isinstance(value, Tensor) for value in loaded.values()):
            break
        inner = next((loaded[name] for name in TABLES if isinstance(loaded.get(name), Mapping)), None)
        if inner is None:
            break
        loaded = inner
    return loaded if isinstance(loaded, Mapping) and loaded else None


def unprefixed(state: Mapping[str, Tensor], wanted: Mapping[str, object]) -> dict[str, Tensor]:
    """The tensors without the prefix that wrappers put before the network's names, such as `module.`.

    Tensors without that prefix are the wrapper's own (losses, counters, averaged copies) and left out.
    """
    counts: dict[str, int] = {"": 0}
    for name in wanted:
        for key in state:
            if key.endswith(name) and (key == name or key[-len(name) - 1] == "."):
                prefix = key[: -len(name)]
                counts[prefix] = counts.get(prefix, 0) + 1
    prefix = min(counts, key=lambda p: (-counts[p], len(p)))
    if not prefix:
        return dict(state)
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}


def _plain() -> list[Any]:
    """Classes without code of their own that checkpoints hold beside tensors: options, NumPy's numbers."""
    number: Any = np.float64(0).__reduce__()[0]  # NumPy's own function that makes one
    return [*_PLAIN, number]


def _packed(path: Path) -> str:
    """Why a ZIP archive is not unpacked; empty for one that holds no more than its size, as torch writes."""
    if not zipfile.is_zipfile(path):
        return ""
    with zipfile.ZipFile(path) as archive:
        claimed = sum(entry.file_size for entry in archive.infolist())
    size = path.stat().st_size
    if claimed > MOST_UNPACKED * size:
        return f"unpacks to {claimed / 1e6:.0f} MB from {size / 1e6:.2g} MB; that is no file of weights"
    return ""


def _why_not(start: bytes, text: str) -> str:
    """Why torch does not read a file, without its advice to switch the protection off."""
    found = re.search(r"(?:GLOBAL|global) ([\w.]+)", text)
    if found or ("Weights only load failed" in text and start.startswith(b"\x80")):
        return (
            f"holds Python objects ({found[1] if found else 'a pickle'}), not tensors alone, and is not run; "
            "where it was made, save the network's state_dict() and take that file"
        )
    if "TorchScript" in text:
        return "is a TorchScript program, not a file of weights; save the network's state_dict()"
    kind = kind_of(start)
    if kind and not start.startswith((b"PK\x03\x04", b"\x80")):
        return f"is {kind}" if kind != "empty" else "is empty"
    if start.startswith((b"PK\x03\x04", b"\x80")):
        return "is damaged, or not written by torch: it may be cut off; fetch or copy it again"
    return "is not a file that torch wrote"

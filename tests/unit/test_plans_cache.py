"""Plans on disk: found by a key over everything that matters, checked before use, whole or absent."""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamseg.config import EngineConfig
from streamseg.inference.backends.protocol import backend_of, build_spec
from streamseg.inference.engine import Shapes
from streamseg.inference.plans.cache import (
    PLANS,
    Manifest,
    Plan,
    building,
    find_plan,
    keep_plan,
    list_plans,
    mark_used,
    part_file,
    plan_folders,
    prune,
)
from streamseg.inference.plans.recipe_key import Recipe, recipe_of
from streamseg.inference.spec import find_engine, read_spec


def recipe_for(folder: Path, **changes: Any) -> Recipe:
    folder, engine = find_engine(str(folder))
    spec = build_spec(EngineConfig(name=str(folder)), folder, engine, "fp32")
    return recipe_of(backend_of("onnx"), msgspec.structs.replace(spec, **changes))


def keep(folder: Path, recipe: Recipe, content: bytes = b"plan" * 100) -> Plan:
    """Put an plan into a folder of plans, as a builder does."""
    with building(folder, recipe.key):
        part = part_file(folder, recipe, ".plan")
        part.write_bytes(content)
        return keep_plan(
            part, recipe, engine="tiny", device="cpu", suffix=".plan", took_s=1.0, agreement=None
        )


def found(folder: Path, recipe: Recipe) -> tuple[Plan | None, list[str]]:
    refused: list[str] = []
    return find_plan([folder], recipe, refused.append), refused


def test_what_was_kept_is_found_with_its_manifest(tmp_path: Path, tiny_engine: Path) -> None:
    recipe = recipe_for(tiny_engine)
    kept = keep(tmp_path, recipe)
    plan, refused = found(tmp_path, recipe)
    assert plan == kept
    assert refused == []
    assert plan is not None
    assert plan.path.read_bytes() == b"plan" * 100
    assert plan.manifest.recipe == recipe


def test_two_networks_that_differ_in_one_dilation_have_different_keys(
    tmp_path: Path, tiny_engine: Path
) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra torch")
    keys = []
    for dilation in (2, 4):
        folder = tmp_path / str(dilation) / "tiny"
        folder.mkdir(parents=True)
        model = onnx.load(tiny_engine / "tiny.onnx")
        convolution = next(node for node in model.graph.node if node.op_type == "Conv")
        convolution.attribute.append(onnx.helper.make_attribute("dilations", [dilation, dilation]))
        graph = model.SerializeToString()
        (folder / "tiny.onnx").write_bytes(graph)
        text = (tiny_engine / "engine.toml").read_text()
        old = read_spec(tiny_engine).weights["fp32"].sha256
        (folder / "engine.toml").write_text(text.replace(old, hashlib.sha256(graph).hexdigest()))
        keys.append(recipe_for(folder).key)
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"shapes": Shapes((1, 8, 8), (1, 48, 64), (8, 96, 96))},
        {"threads": 3},
        {"target": "sm_89"},
        {"flags": ("version-compatible",)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_everything_that_decides_the_plan_changes_the_key(tiny_engine: Path, changes: dict[str, Any]) -> None:
    assert recipe_for(tiny_engine, **changes).key != recipe_for(tiny_engine).key


@pytest.mark.parametrize("field", ["schema", "graph_sha256", "backend", "identity"])
def test_another_version_or_device_changes_the_key(tiny_engine: Path, field: str) -> None:
    recipe = recipe_for(tiny_engine)
    other: dict[str, Any] = {"schema": 2, "graph_sha256": "0", "backend": "x", "identity": {"sm": "sm_90"}}
    assert msgspec.structs.replace(recipe, **{field: other[field]}).key != recipe.key


def test_the_same_recipe_has_the_same_key_in_every_process(tiny_engine: Path) -> None:
    recipe = recipe_for(tiny_engine)
    turned = msgspec.structs.replace(recipe, identity=dict(reversed([*recipe.identity.items(), ("a", "b")])))
    straight = msgspec.structs.replace(recipe, identity={"a": "b", **recipe.identity})
    assert turned.key == straight.key


@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "empty"])
def test_a_damaged_plan_is_not_found_and_the_reason_is_given(
    tmp_path: Path, tiny_engine: Path, damage: str
) -> None:
    recipe = recipe_for(tiny_engine)
    path = keep(tmp_path, recipe).path
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes({"cut": content[:-1], "flip": b"x" + content[1:], "empty": b""}[damage])
    plan, refused = found(tmp_path, recipe)
    assert plan is None
    assert len(refused) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"key": 3}'])
def test_a_damaged_manifest_is_refused(tmp_path: Path, tiny_engine: Path, text: str) -> None:
    recipe = recipe_for(tiny_engine)
    keep(tmp_path, recipe)
    (tmp_path / f"{recipe.key}.json").write_text(text)
    plan, refused = found(tmp_path, recipe)
    assert plan is None
    assert len(refused) == 1


def test_another_plan_under_our_key_is_not_taken(tmp_path: Path, tiny_engine: Path) -> None:
    ours, foreign = recipe_for(tiny_engine), recipe_for(tiny_engine, target="sm_120")
    other = keep(tmp_path, foreign)
    (tmp_path / f"{foreign.key}.json").rename(tmp_path / f"{ours.key}.json")
    plan, refused = found(tmp_path, ours)
    assert plan is None
    assert "for another network, machine or version" in refused[0]
    assert other.path.exists()


def test_a_manifest_that_points_elsewhere_is_not_followed(tmp_path: Path, tiny_engine: Path) -> None:
    recipe = recipe_for(tiny_engine)
    plan = keep(tmp_path / "plans", recipe)
    (tmp_path / "secret").write_bytes(b"plan" * 100)
    for name in ("../secret", "/etc/passwd", "other.plan"):
        manifest = msgspec.structs.replace(plan.manifest, file=name)
        (tmp_path / "plans" / f"{recipe.key}.json").write_bytes(msgspec.json.encode(manifest))
        assert found(tmp_path / "plans", recipe)[0] is None


def test_a_plan_without_its_manifest_is_ignored(tmp_path: Path, tiny_engine: Path) -> None:
    recipe = recipe_for(tiny_engine)
    (tmp_path / f"{recipe.key}.plan").write_bytes(b"plan")
    assert found(tmp_path, recipe) == (None, [])


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path: Path, tiny_engine: Path) -> None:
    recipe = recipe_for(tiny_engine)
    left = part_file(tmp_path, recipe, ".plan")
    left.write_bytes(b"half")
    keep(tmp_path, recipe)
    assert not left.exists()
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".json", ".lock", ".plan"]


def test_plans_are_looked_for_beside_the_engine_and_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert plan_folders(Path("/e")) == [Path("/e") / PLANS, Path("/x/streamseg") / PLANS]


def test_pruning_removes_the_longest_unused_and_what_is_unfinished(tmp_path: Path, tiny_engine: Path) -> None:
    plans = [keep(tmp_path, recipe_for(tiny_engine, threads=n), b"x" * 1000) for n in (1, 2, 3)]
    for age, plan in enumerate(plans):
        os.utime(tmp_path / f"{plan.manifest.key}.json", (1000 + age, 1000 + age))
    mark_used(plans[0])
    (tmp_path / f"{'0' * 64}.part.plan").write_bytes(b"half")
    gone = prune(tmp_path, 2000)
    assert len(gone) == 2
    assert [p.manifest.key for p in list_plans(tmp_path)] == [plans[2].manifest.key, plans[0].manifest.key]
    assert {p.name.split(".")[0] for p in tmp_path.iterdir()} == {
        plans[0].manifest.key,
        plans[2].manifest.key,
    }


def test_pruning_leaves_alone_what_is_being_built(tmp_path: Path, tiny_engine: Path) -> None:
    recipe = recipe_for(tiny_engine)
    part = part_file(tmp_path, recipe, ".plan")
    with building(tmp_path, recipe.key):
        part.write_bytes(b"half")
        assert prune(tmp_path, 0) == []
        assert part.exists()
        with pytest.raises(BlockingIOError), (tmp_path / f"{recipe.key}.lock").open("r+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_manifest_tells_what_was_built(tmp_path: Path, tiny_engine: Path) -> None:
    recipe = recipe_for(tiny_engine)
    plan = keep(tmp_path, recipe)
    read = msgspec.json.decode((tmp_path / f"{recipe.key}.json").read_bytes(), type=Manifest)
    assert read == plan.manifest
    assert read.sha256 == hashlib.sha256(b"plan" * 100).hexdigest()
    assert read.recipe.identity["onnxruntime"]

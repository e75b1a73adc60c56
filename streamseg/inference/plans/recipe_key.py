"""The key of a built artifact: everything that it depends on, hashed."""

from __future__ import annotations

import hashlib

import msgspec

from streamseg.inference.backends.protocol import Backend, BuildSpec
from streamseg.inference.spec import Shapes

SCHEMA = 1  # of this recipe; another number makes every artifact one that has to be built again


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What an artifact was made of and for; two equal recipes may share it."""

    schema: int
    graph_sha256: str  # weights, every node with its attributes, and the calibration of int8
    network: str
    precision: str
    shapes: Shapes
    threads: int
    target: str
    flags: tuple[str, ...]
    backend: str
    identity: dict[str, str]  # the backend's version, CUDA, SM or CPU features

    @property
    def key(self) -> str:
        """SHA-256 over all of it, in hexadecimal."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


def recipe_of(backend: Backend, spec: BuildSpec) -> Recipe:
    """The recipe by which `backend` would build `spec` on this machine."""
    identity = backend.identity(spec)
    return Recipe(
        schema=SCHEMA,
        graph_sha256=spec.weights_sha256,
        network=spec.engine.network,
        precision=spec.precision,
        shapes=spec.shapes,
        threads=spec.threads,
        target=spec.target or identity.get("sm", ""),  # the same here as built ahead of time elsewhere
        flags=spec.flags,
        backend=backend.name,
        identity=identity,
    )

"""The key of a plan: a hash of everything that it depends on."""

from __future__ import annotations

import hashlib

import msgspec

from streamseg.inference.backends.protocol import Backend, BuildSpec
from streamseg.inference.engine import Shapes

SCHEMA = 1  # of this recipe; another number invalidates every plan


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """What a plan was made of and for; equal recipes may share a plan."""

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
        """SHA-256 of all fields, in hexadecimal."""
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
        target=spec.target or identity.get("sm", ""),  # the same on the GPU as built ahead of time
        flags=spec.flags,
        backend=backend.name,
        identity=identity,
    )

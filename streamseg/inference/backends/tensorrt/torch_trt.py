"""Plans by torch-tensorrt: the network as a torch program, converted whole. Needs a GPU; not run yet.

Precision comes from the module's own types, because torch-tensorrt ignores the precisions it is given. Its
engine cache is off: its key leaves out a convolution's dilation.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from streamseg.inference.backends.base import library_errors
from streamseg.inference.backends.protocol import BuildSpec, OnProgress
from streamseg.inference.backends.tensorrt.plan import profile_shapes

if TYPE_CHECKING:
    from torch.export import ExportedProgram


def has_torch_tensorrt() -> bool:
    return importlib.util.find_spec("torch_tensorrt") is not None


def build_with_torch(spec: BuildSpec, progress: OnProgress) -> bytes:
    """Build a plan for this machine's GPU; raises EngineError for what cannot be converted."""
    import torch
    import torch_tensorrt

    smallest, usual, largest = profile_shapes(spec.shapes)
    picture = torch_tensorrt.Input(
        min_shape=smallest, opt_shape=usual, max_shape=largest, dtype=torch.uint8, name="image"
    )
    progress("tracing the network")
    program = exported(spec, "cuda")
    progress("converting it with torch-tensorrt; this takes minutes")
    with library_errors(f"engine {spec.engine.name}: torch-tensorrt cannot convert it"):
        return bytes(
            torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
                program,
                arg_inputs=[picture],
                use_explicit_typing=True,
                require_full_compilation=True,
                truncate_double=True,
                cache_built_engines=False,
                reuse_cached_engines=False,
            )
        )


def exported(spec: BuildSpec, device: str) -> ExportedProgram:
    """The network of `spec` as a torch program: uint8 in, logits out, with dynamic sizes."""
    from streamseg.inference.backends.aoti import traced
    from streamseg.inference.backends.torch import torch_dtype
    from streamseg.inference.backends.torch_graph import GraphModule

    network = GraphModule(spec.graph(), torch_dtype(spec.precision)).eval().to(device)
    return traced(network, spec, device)

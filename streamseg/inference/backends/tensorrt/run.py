"""Running a plan: pinned memory, one stream, one execution context, a CUDA graph for each batch shape.

torch provides the memory and the streams. Written from the documentation: nothing in this module has run on
a GPU yet (tests/gpu/test_engine_tensorrt.py does).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamseg.errors import EngineError
from streamseg.inference.backends.base import BaseEngine
from streamseg.inference.backends.graphed_batches import GraphedBatches, Work
from streamseg.inference.backends.protocol import BuildSpec
from streamseg.inference.backends.tensorrt.plan import Library, make_logger, open_plan
from streamseg.inference.backends.torch import device_name
from streamseg.inference.engine import Queued
from streamseg.runtime.cuda_graphs import record
from streamseg.types import F32, U8

if TYPE_CHECKING:
    import torch


class PlanEngine(BaseEngine):
    """Runs a plan of either library. Belongs to one thread at a time; releases the GIL while it waits.

    Pictures are arrays, or anything on the GPU that supports DLPack. on_device() leaves the logits on it.
    """

    def __init__(self, library: Library, spec: BuildSpec, plan: Path, backend: str) -> None:
        """Raises EngineError for a plan that is damaged, or for another version, GPU or `spec`."""
        import torch

        self._torch = torch
        cuda: Any = torch.cuda
        cuda.init()  # TensorRT then uses the same context
        self._logger = make_logger(library)
        self._runtime = library.Runtime(self._logger)
        self._plan: Any = open_plan(library, self._runtime, self._logger, plan, spec)
        self._records_itself = hasattr(library, "CudaGraphStrategy")
        self._context: Any = self._new_context(library)
        if self._context is None:
            raise EngineError(
                f"engine {spec.engine.name}: no memory for its plan: {self._logger.last_errors()}"
            )
        names = [self._plan.get_tensor_name(i) for i in range(2)]
        first_is_input = self._plan.get_tensor_mode(names[0]) == library.TensorIOMode.INPUT
        self._picture, self._answer = names if first_is_input else names[::-1]
        self._batches = GraphedBatches(self._prepared, spec.shapes.largest[0])
        super().__init__(spec, spec.info(backend, device_name("cuda"), bounded=True, tensors="cuda"))

    def __call__(self, batch: U8 | torch.Tensor) -> F32:
        """See Engine; a batch that is on the GPU already is not copied to the host."""
        with self._running(batch):
            return self._run(batch)

    def on_device(self, batch: torch.Tensor) -> Queued:
        """See TensorEngine."""
        with self._running(batch):
            return self._batches.start(batch)

    def _run(self, feed: Any) -> F32:
        return self._batches.run(feed)

    def _release(self) -> None:
        self._batches.close()  # graphs first: they use the context's memory
        self._context = None
        self._plan = None

    def _new_context(self, library: Library) -> Any:
        if not self._records_itself:
            return self._plan.create_execution_context()
        config = self._plan.create_runtime_config()
        config.cuda_graph_strategy = library.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        # A shape's kernels are compiled when it is first seen, which is in warm_up().
        config.dynamic_shapes_kernel_specialization_strategy = (
            library.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        return self._plan.create_execution_context(config)

    def _prepared(self, shape: tuple[int, ...], dtype: torch.dtype) -> Work:
        """Memory for a shape, and its recording, but for TensorRT-RTX, which records by itself."""
        torch = self._torch
        if not self._context.set_input_shape(self._picture, shape):
            raise EngineError(f"engine {self.info.id}: does not take batches of {shape}")
        image = torch.zeros(shape, dtype=dtype, device="cuda")
        logits_shape = tuple(self._context.get_tensor_shape(self._answer))
        logits = torch.empty(logits_shape, dtype=torch.float32, device="cuda")
        start = partial(self._enqueue, image, logits)
        if self._records_itself:
            return Work(image, logits, start)
        return Work(image, logits, record(start, torch.cuda.current_stream()).replay)

    def _enqueue(self, image: torch.Tensor, logits: torch.Tensor) -> None:
        self._context.set_input_shape(self._picture, tuple(image.shape))
        self._context.set_tensor_address(self._picture, image.data_ptr())
        self._context.set_tensor_address(self._answer, logits.data_ptr())
        stream = self._torch.cuda.current_stream()
        if not self._context.execute_async_v3(stream.cuda_stream):
            raise EngineError(f"engine {self.info.id}: TensorRT failed: {self._logger.last_errors()}")

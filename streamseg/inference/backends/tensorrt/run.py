"""Running a plan: pinned memory, one stream, one execution context, a CUDA graph for each batch shape.

torch provides the memory and the streams. Written from the documentation: nothing in this module has run on
a GPU yet (tests/gpu/test_engine_tensorrt.py does).
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from streamseg.errors import EngineError
from streamseg.inference.backends.base import BaseEngine
from streamseg.inference.backends.protocol import BuildSpec
from streamseg.inference.backends.tensorrt.plan import Library, make_logger, open_plan
from streamseg.inference.backends.torch import MOST_GRAPHS, device_name
from streamseg.types import F32, U8

if TYPE_CHECKING:
    import torch


class _Shape(NamedTuple):
    """The memory of one batch shape; `graph` reads `image` and writes `logits`, both on the GPU."""

    image: torch.Tensor
    logits: torch.Tensor
    host_image: torch.Tensor  # pinned
    host_logits: torch.Tensor  # pinned
    graph: torch.cuda.CUDAGraph | None  # None with TensorRT-RTX, which records by itself


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
        self._stream: Any = cuda.Stream()
        self._shapes: OrderedDict[tuple[int, ...], _Shape] = OrderedDict()
        super().__init__(spec, spec.info(backend, device_name("cuda"), bounded=True, tensors="cuda"))

    def __call__(self, batch: U8 | torch.Tensor) -> F32:
        """See Engine; a batch that is on the GPU already is not copied to the host."""
        with self._running(batch):
            return self._run(batch)

    def on_device(self, batch: torch.Tensor) -> torch.Tensor:
        """See TensorEngine."""
        with self._running(batch):
            memory = self._started(batch)
            self._torch.cuda.current_stream().wait_stream(self._stream)
            logits = memory.logits.clone()  # its memory is written again by the next batch
            self._torch.cuda.current_stream().synchronize()
            return logits

    def _run(self, feed: Any) -> F32:
        memory = self._started(feed)
        with self._torch.cuda.stream(self._stream):
            memory.host_logits.copy_(memory.logits, non_blocking=True)
        self._stream.synchronize()
        return np.array(memory.host_logits.numpy())  # its memory is written again

    def _release(self) -> None:
        self._shapes.clear()  # graphs first: they use the context's memory
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

    def _started(self, batch: Any) -> _Shape:
        """Start computing a batch on our stream; returns the memory that will hold its logits."""
        torch = self._torch
        shape = tuple(batch.shape)
        self._stream.wait_stream(torch.cuda.current_stream())  # which may still be writing the batch
        with torch.cuda.stream(self._stream):
            memory = self._shapes.get(shape) or self._prepare(shape)
            self._shapes.move_to_end(shape)
            if isinstance(batch, np.ndarray):
                memory.host_image.numpy()[:] = batch
                memory.image.copy_(memory.host_image, non_blocking=True)
            else:
                memory.image.copy_(torch.from_dlpack(batch), non_blocking=True)
            if memory.graph is None:
                self._enqueue(memory)
            else:
                memory.graph.replay()
        return memory

    def _prepare(self, shape: tuple[int, ...]) -> _Shape:
        """Memory for a shape, and its recording. TensorRT must have run a shape before it is recorded."""
        torch = self._torch
        while len(self._shapes) >= MOST_GRAPHS:
            self._shapes.popitem(last=False)
        if not self._context.set_input_shape(self._picture, shape):
            raise EngineError(f"engine {self.info.id}: does not take batches of {shape}")
        answer = tuple(self._context.get_tensor_shape(self._answer))
        memory = _Shape(
            torch.zeros(shape, dtype=torch.uint8, device="cuda"),
            torch.empty(answer, dtype=torch.float32, device="cuda"),
            torch.empty(shape, dtype=torch.uint8, pin_memory=True),
            torch.empty(answer, dtype=torch.float32, pin_memory=True),
            None,
        )
        if not self._records_itself:
            self._enqueue(memory)
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            # "thread_local": other threads may use the GPU during the recording.
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._enqueue(memory)
            memory = memory._replace(graph=graph)
        self._shapes[shape] = memory
        return memory

    def _enqueue(self, memory: _Shape) -> None:
        self._context.set_input_shape(self._picture, tuple(memory.image.shape))
        self._context.set_tensor_address(self._picture, memory.image.data_ptr())
        self._context.set_tensor_address(self._answer, memory.logits.data_ptr())
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise EngineError(f"engine {self.info.id}: TensorRT failed: {self._logger.last_errors()}")

"""Compare the padded kernels with the compiled CRF, in Triton's interpreter on the CPU."""

import os

os.environ["TRITON_INTERPRET"] = "1"

import msgspec
import torch

from streamseg import crf
from streamseg.crf import gpu
from streamseg.crf.params import terms_of
from tests.crf_scenes import agreement, scene
from tools.device import padded_kernels as kernels

ITERATIONS = 2


def main() -> None:
    for classes in (2, 5, 21):
        logits, image, _ = scene(24, 30, classes)
        params = msgspec.structs.replace(crf.preset("deeplab-largefov"), iterations=ITERATIONS)
        unary = torch.from_numpy(logits).reshape(classes, -1).T.contiguous()
        unary = (unary - unary.amax(1, keepdim=True)).clamp_min(-1e4)
        padding = kernels.stride(classes) - classes
        unary = torch.nn.functional.pad(unary, (0, padding), value=-1e4)
        steps = kernels.TritonSteps(classes)
        terms = [
            gpu._Term(term, torch.from_numpy(image), (24, 30), classes, unary, steps)
            for term in terms_of(params)
        ]
        q = torch.softmax(unary, 1)
        for _ in range(ITERATIONS):
            q = steps.update(unary, [(term.lattice, term.rows(q), term.gain) for term in terms])
        assert padding == 0 or float(q[:, classes:].abs().max()) == 0
        got, want = q[:, :classes].T.reshape(classes, 24, 30).numpy(), crf.mean_field(logits, image, params)
        print(
            f"{classes} classes: max |ΔQ| {abs(got - want).max():.2g}, agreement {agreement(got, want):.4f}"
        )


if __name__ == "__main__":
    main()

"""Whether a form that nobody asked for by name may be run: labels as in fp32, and faster than others.

precision = "auto" takes int8, bf16 or fp16 only with such a proof. It is made once for each machine, engine,
form and version of the library, in the process that builds plans, and kept in the cache beside the plans.
"""

from __future__ import annotations

import hashlib
import logging

import msgspec

from streamseg.config import EngineConfig
from streamseg.config.reading import read_file
from streamseg.errors import EngineError, OutputError
from streamseg.inference.backends.device import cpu_identity
from streamseg.inference.backends.protocol import Choice
from streamseg.inference.plans.verify import Measured
from streamseg.runtime.files import atomic_write
from streamseg.runtime.folders import cache_folder
from streamseg.types import Size

log = logging.getLogger(__name__)

PROOFS = "proofs"
LEAST_PERCENT = 98.0
"""Labels as in fp32. camvid-slim in int8 has 98.9 and loses 0.03 mIoU; bf16 has 99.9."""
SCHEMA = 1


class Form(msgspec.Struct, frozen=True, kw_only=True):
    """What is proved of an engine, and for which machine."""

    schema: int
    graph_sha256: str
    fp32_sha256: str
    network: str
    precision: str
    backend: str
    input_size: Size
    identity: dict[str, str]  # of the backend
    cpu: str

    @property
    def key(self) -> str:
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of a form."""

    form: Form
    measured: Measured

    @property
    def problem(self) -> str:
        """Why the form is not to be taken; empty where it is."""
        return self.disagreement or self.slowness

    @property
    def disagreement(self) -> str:
        percent = self.measured.agreement.argmax_percent
        if percent >= LEAST_PERCENT:
            return ""
        return f"{percent:.1f} % of its labels are as in fp32, below {LEAST_PERCENT:g} %"

    @property
    def slowness(self) -> str:
        found = self.measured
        for other, name in ((found.onnx, "ONNX Runtime"), (found.fp32, "fp32")):
            if other is not None and found.cost.clearly_above(other):
                return f"slower here than {name} ({found.cost.ms:.1f} ms, {other.ms:.1f} ms)"
        return ""

    @property
    def why(self) -> str:
        """Why it is taken."""
        found = self.measured
        return (
            f"{found.agreement.argmax_percent:.2f} % of its labels are as in fp32, and a picture took "
            f"{found.cost.ms:.1f} ms instead of {found.fp32.ms:.1f}"
        )


class SlowerForm(EngineError):
    """A form agrees with fp32, and another one is faster."""


def needs_proof(config: EngineConfig, choice: Choice) -> bool:
    """Whether a form may be run only with a proof: not where it was asked for, or is fp32 or all there is."""
    spec = choice.spec
    return config.precision == "auto" and spec.precision != "fp32" and "fp32" in spec.engine.weights


def form_of(choice: Choice) -> Form:
    """What a proof of this choice is for; threads and shapes do not change labels."""
    backend, spec = choice
    identity = {k: v for k, v in backend.identity(spec).items() if k not in ("threads", "pinned")}
    return Form(
        schema=SCHEMA,
        graph_sha256=spec.weights_sha256,
        fp32_sha256=spec.engine.weights_of("fp32").digest,
        network=spec.engine.network,
        precision=spec.precision,
        backend=backend.name,
        input_size=spec.input_size,
        identity=identity,
        cpu=cpu_identity(),
    )


_made: dict[str, Proof] = {}  # in this process, by key; each operation on it is whole


def kept_proof(choice: Choice) -> Proof | None:
    """The proof of a form that was made before; None where there is none."""
    form = form_of(choice)
    if (made := _made.get(form.key)) is not None:
        return made
    try:
        proof = msgspec.json.decode(read_file(cache_folder(PROOFS) / f"{form.key}.json").data, type=Proof)
    except (OSError, OutputError, msgspec.MsgspecError):
        return None
    return proof if proof.form == form else None


def keep_proof(choice: Choice, measured: Measured) -> Proof:
    """Keep what was measured; where it cannot be written, for as long as this process runs."""
    form = form_of(choice)
    proof = _made[form.key] = Proof(form=form, measured=measured)
    try:
        folder = cache_folder(PROOFS)
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(folder / f"{form.key}.json", msgspec.json.format(msgspec.json.encode(proof), indent=1))
    except (OSError, OutputError) as error:
        log.info("engine %s: compared with fp32 anew at each start: %s", choice.engine_id, error)
    return proof


def forget_proofs() -> int:
    """Remove all that are kept → how many."""
    _made.clear()
    gone = 0
    for path in cache_folder(PROOFS).glob("*.json"):
        path.unlink(missing_ok=True)
        gone += 1
    return gone

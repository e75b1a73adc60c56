"""Compile the CRF's Triton kernels for GPUs that this machine does not have, and refuse what would be slow.

python tools/device/aot_triton.py [MODULE.py] [SM...]. Needs triton (its wheel has ptxas, cuobjdump), no GPU
and no driver. Fails on a register spill, on a fence around atomics (atomic_add without sem="relaxed") and on
what does not compile.
"""

import importlib.util
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

TYPES = {
    "vertices": "*i32",
    "plus": "*i32",
    "minus": "*i32",
    "count": "i32",
    "points": "i32",
    "classes": "i32",
}
CONSTANTS = {"NV": 6, "BLOCK": 32, "C": 32, "S": 24, "GAIN": True, "LAST": True}
BIN: Path = Path(triton.__file__).parent / "backends/nvidia/bin"


def kernels(path: str | None) -> list[Any]:
    if path is None:
        from streamseg.crf import triton_kernels as module
    else:
        spec = importlib.util.spec_from_file_location(Path(path).stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    return [getattr(module, name) for name in ("_splat", "_blur", "_slice", "_update")]


def dump(cubin: str, option: str) -> str:
    """What cuobjdump prints about a compiled kernel."""
    command = [str(BIN / "cuobjdump"), option, cubin]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def main() -> None:
    path = next((a for a in sys.argv[1:] if a.endswith(".py")), None)
    wrong = []
    for sm in [int(a) for a in sys.argv[1:] if a.isdigit()] or [80, 89, 90, 120]:
        for kernel in kernels(path):
            names = kernel.arg_names
            signature = {n: "constexpr" if n in CONSTANTS else TYPES.get(n, "*fp32") for n in names}
            constants = {(i,): CONSTANTS[n] for i, n in enumerate(names) if n in CONSTANTS}
            aligned = {
                (i,): [["tt.divisibility", 16]] for i, n in enumerate(names) if signature[n].startswith("*")
            }
            made = triton.compile(
                ASTSource(kernel, signature, constants, aligned), target=GPUTarget("cuda", sm, 32)
            )
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(made.asm["cubin"])
                file.flush()
                sass, usage = dump(file.name, "-sass"), dump(file.name, "-res-usage")
            ops = {
                o: len(re.findall(rf"\b{o}", sass))
                for o in ("LDG", "STG", "RED", "ATOMG", "MEMBAR", "CCTL", "LDL", "STL")
            }
            wide = len(re.findall(r"\b(?:LDG|STG)\.[\w.]*128", sass))
            registers = re.search(r"REG:(\d+)", usage)
            print(
                f"sm_{sm} {kernel.__name__}: {registers and registers[1]} registers, "
                f"{wide} accesses of 16 bytes, {ops}"
            )
            if ops["MEMBAR"] or ops["LDL"] or ops["STL"]:
                wrong.append(f"sm_{sm} {kernel.__name__}")
    sys.exit(f"fences or spills: {', '.join(wrong)}" if wrong else 0)


if __name__ == "__main__":
    main()

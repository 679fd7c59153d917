"""The processor, and a limit on the instruction sets that libraries use.

    python benchmarks/processor.py          prints its name, instruction sets, cores and threads
    python benchmarks/processor.py avx2     prints the environment that limits a program to AVX2:

    env $(python benchmarks/processor.py avx2) python benchmarks/int8.py MODEL --camvid DIR

The other benchmarks have `--isa avx2` for this. It limits oneDNN (TensorFlow, PyTorch, OpenVINO),
PyTorch's own kernels, OpenBLAS (NumPy), MKL and XLA (JAX). ONNX Runtime and LiteRT ask the processor
itself, and nothing limits them. Memory, caches and clock remain this processor's.
"""

import os
import sys
from pathlib import Path

# Those that convolutions and products of matrices are faster with, from old to new; x86-64, then Arm.
INSTRUCTION_SETS = "avx2 fma avx_vnni avx512f avx512_vnni avx512_bf16 avx512_fp16".split()
INSTRUCTION_SETS += "amx_tile amx_int8 amx_bf16 amx_fp16 asimd sve i8mm bf16 sve2".split()

# What libraries read when they are loaded.
LIMITS = {
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        # Without AVX-512 VNNI or the like, TensorFlow uses its own convolutions instead of oneDNN's.
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "ATEN_CPU_CAPABILITY": "avx2",
        "OPENBLAS_CORETYPE": "Haswell",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "XLA_FLAGS": "--xla_cpu_max_isa=AVX2",
    },
}


def processor(cpuinfo: str, threads: int) -> str:
    """Describes the processor of a `/proc/cpuinfo`, of which `threads` may be used.

    >>> processor("model name: EPYC\\nphysical id: 0\\ncore id: 0\\nflags: fpu avx2 fma sse2", 1)
    'EPYC (avx2 fma), 1 core, 1 thread'
    """
    blocks = [
        {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        for lines in (block.splitlines() for block in cpuinfo.split("\n\n") if block.strip())
    ]
    first = blocks[0] if blocks else {}
    flags = first.get("flags", first.get("Features", "")).split()
    sets = " ".join(name for name in INSTRUCTION_SETS if name in flags)
    # Virtual machines may not tell which threads share a core.
    cores = {(block["physical id"], block["core id"]) for block in blocks if "core id" in block}
    name = first.get("model name", "unknown processor")
    parts = [f"{name} ({sets or 'instruction sets unknown'})"]
    if cores:
        parts.append(_count(len(cores), "core"))
    return ", ".join([*parts, _count(threads, "thread")])


def this_processor() -> str:
    path = Path("/proc/cpuinfo")
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count())
    return processor(path.read_text() if path.exists() else "", len(usable))


def limited(isa: str | None) -> dict[str, str]:
    """The environment for a program that is limited to an instruction set; `None` is no limit."""
    if isa is None:
        return {}
    limits = dict(LIMITS[isa])
    limits["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {limits['XLA_FLAGS']}".strip()
    return limits


def _count(number, word):
    return f"{number} {word}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(*(f"{name}={value}" for name, value in LIMITS[sys.argv[1]].items()))
    else:
        print(this_processor())

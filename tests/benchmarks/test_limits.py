"""Benchmarks name the processor, can limit its instruction sets, and never exceed a limit silently."""

import importlib
import os
import pathlib
import subprocess
import sys

import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module


def cpuinfo(name, flags, cores, threads=1, key="flags"):
    blocks = []
    for i in range(cores * threads):
        blocks.append(
            f"processor\t: {i}\nmodel name\t: {name}\nphysical id\t: 0\ncore id\t\t: {i % cores}\n"
            f"{key}\t\t: {flags}\n"
        )
    return "\n".join(blocks)


@pytest.mark.parametrize(
    ("flags", "cores", "threads", "described"),
    [
        ("fpu sse2 avx avx2 fma", 2, 1, "Chip (avx2 fma), 2 cores, 2 threads"),
        (
            "fma avx512vl avx2 avx512f avx512_bf16 avx512_vnni",
            4,
            2,
            "Chip (avx2 fma avx512f avx512_vnni avx512_bf16), 4 cores, 8 threads",
        ),
        ("avx2 amx_int8 amx_tile", 1, 2, "Chip (avx2 amx_tile amx_int8), 1 core, 2 threads"),
    ],
)
def test_a_processor_is_described_by_what_speed_depends_on(script, flags, cores, threads, described):
    text = cpuinfo("Chip", flags, cores, threads)
    assert script("processor").processor(text, cores * threads) == described


def test_a_processor_of_which_little_is_known(script):
    describe = script("processor").processor
    assert describe("", 3) == "unknown processor (instruction sets unknown), 3 threads"
    arm = "processor: 0\nBogoMIPS: 50\nFeatures: fp asimd bf16 i8mm"
    assert describe(arm, 1) == "unknown processor (asimd i8mm bf16), 1 thread"


def test_a_limit_reaches_the_processes_that_are_measured(script, monkeypatch):
    turns = script("turns")
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=true")
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    for isa, expected in (("avx2", "AVX2"), (None, None)):
        side = turns.Side("side", [sys.executable, "-c", show], turns.environment("cpu", isa))
        side.close()
        for name in ("ONEDNN_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS"):
            assert side.ready.get(name, None) == expected
        # What TensorFlow chooses by itself on a processor without neural network instructions.
        assert side.ready.get("TF_ENABLE_ONEDNN_OPTS") == ("0" if isa else None)
        assert side.ready.get("OPENBLAS_CORETYPE") == ("Haswell" if isa else None)
        assert ("--xla_cpu_max_isa=AVX2" in side.ready["XLA_FLAGS"]) == (isa is not None)
        assert "--xla_cpu_use_fusion_emitters=true" in side.ready["XLA_FLAGS"]


@pytest.mark.parametrize("compiled", [False, True])
def test_every_side_is_limited(script, monkeypatch, compiled):
    turns = script("turns")
    started = []
    monkeypatch.setattr(turns, "Side", lambda name, command, env: started.append((name, env)))
    turns.start_ours("ours", "tensorflow", "float32", isa="avx2")
    turns.start_theirs("python", compiled, "float32", isa="avx2")
    assert len(started) == 2 + compiled
    for name, env in started:
        assert env["ONEDNN_MAX_CPU_ISA"] == "AVX2", name


def test_the_environment_can_be_printed(script):
    command = [sys.executable, SCRIPTS / "processor.py"]
    printed = subprocess.check_output([*command, "avx2"], text=True).split()
    assert dict(item.split("=", 1) for item in printed) == script("processor").LIMITS["avx2"]
    assert "thread" in subprocess.check_output(command, text=True)


def test_the_limit_is_that_of_the_fastest_library(script, capsys):
    rates = [{"NumPy": 100e9, "PyTorch": 80e9}, {"NumPy": 120e9, "PyTorch": 300e9}]
    rates += [{"NumPy": 110e9, "PyTorch": 90e9}]
    # Medians: 110 and 90 GFLOP/s. 55 GFLOP take half a second.
    assert script("products").limit(55e9, rates, 1.0) == pytest.approx(0.5)
    printed = capsys.readouterr().out
    assert "110.0 (100.0 to 120.0)  NumPy" in printed and "90.0 (80.0 to 300.0)  PyTorch" in printed
    assert "0.500 s at the rate of NumPy: 50% of the time measured" in printed
    assert "EXCEEDED" not in printed


def test_a_limit_is_not_exceeded_silently(script, capsys):
    # As measured on a processor where products in TensorFlow are slower than its convolutions.
    assert script("products").limit(135e9, [{"TensorFlow": 100e9}], 1.0) == pytest.approx(1.35)
    assert "135%" in (printed := capsys.readouterr().out) and "EXCEEDED" in printed


@pytest.mark.slow
@pytest.mark.parametrize("library", ["numpy", "tensorflow", "torch", "jax", "onnxruntime"])
def test_every_library_multiplies(script, library):
    side = script("product_side")
    if not side.installed(library):
        pytest.skip(f"{library} is not installed")
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    process = subprocess.run(
        [sys.executable, SCRIPTS / "product_side.py", library],
        input='{"dtype": "float32", "size": 64}\n',
        capture_output=True,
        text=True,
        env=env,
        check=True,
    )
    ready, answer = process.stdout.splitlines()
    assert library in ready and "flops_per_second" in answer

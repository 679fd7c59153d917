"""What the benchmarks share: sides in separate processes that take turns, and tables of results.

A side is a program that writes one JSON line when it is ready and then answers each JSON line on
standard input with one on standard output: keras_side.py, export_side.py, mmseg_reference.py and
product_side.py. This module runs at both ends and in both environments, so it needs only the standard
library.
"""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from processor import LIMITS, limited, this_processor

HERE = Path(__file__).resolve().parent


# === Inside a side ===


def serve(prepare):
    """Answers requests until standard input ends.

    `prepare()` returns a dict for the first line, and a function that answers a request."""
    # The caller must not take what libraries print for a reply.
    replies = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    ready, answer = prepare()
    print(json.dumps({"ready": True, **ready}), file=replies)
    for line in sys.stdin:
        if line.strip():
            print(json.dumps(answer(**json.loads(line))), file=replies)
            release_memory()


def release_memory():
    """Returns freed memory to the system, because the other sides need it."""
    ctypes.CDLL(None).malloc_trim(0)


def forget_peak():
    """Resets the kernel's record of this process's largest resident memory to the current one."""
    # Memory that earlier requests freed must not count for the next one.
    release_memory()
    Path("/proc/self/clear_refs").write_text("5")


def peak_mb():
    """The largest resident memory of this process since `forget_peak`, in 10^6 bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(line for line in lines if line.startswith("VmHWM:")).split()[1]
    return int(kilobytes) * 1024 / 1e6


# === In the benchmark ===


class Side:
    """A program in its own process that answers requests."""

    def __init__(self, name, command, env=None):
        self.name = name
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            env={**os.environ, **(env or {})},
            text=True,
            bufsize=1,
        )
        self.ready = self._reply()

    def ask(self, **request):
        # The threads of the side that answered last spin for a while before they sleep.
        time.sleep(0.3)
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
        except BrokenPipeError:
            pass
        return self._reply()

    def close(self):
        self.process.communicate()

    def _reply(self):
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            status, log = self.process.wait(), self.log.read()[-4000:]
            raise SystemExit(f"{self.name} exited with {status} without an answer:\n{log}")
        return json.loads(line)


def parser(description):
    """An argument parser with the options that all comparisons share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--mmseg", metavar="PYTHON", help="python of mmsegmentation's environment")
    parser.add_argument("--compile", action="store_true", help="also mmsegmentation with torch.compile")
    parser.add_argument("--sizes", nargs="+", type=size, metavar="HEIGHTxWIDTH")
    parser.add_argument("--runs", type=int, default=5, help="timed rounds, after one to warm up")
    parser.add_argument("--isa", choices=LIMITS, help="limit the instruction sets; see processor.py")
    return parser


def arguments(description, sizes, batch):
    """Parses the command line; `sizes` and `batch` are the defaults on the CPU."""
    command_line = parser(description)
    command_line.add_argument("--batch", type=int)
    command_line.add_argument("--dtype", choices=("float32", "mixed_bfloat16"))
    command_line.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options = command_line.parse_args()
    cuda = options.device == "cuda"
    options.backend = os.environ.get("KERAS_BACKEND", "jax" if cuda else "tensorflow")
    options.dtype = options.dtype or ("mixed_bfloat16" if cuda else "float32")
    options.sizes = options.sizes or ([(512, 512)] if cuda else [size(text) for text in sizes])
    options.batch = options.batch or (16 if cuda else batch)
    if cuda and (options.backend != "jax" or options.dtype != "mixed_bfloat16"):
        command_line.error("on CUDA, KERAS_BACKEND must be jax and --dtype mixed_bfloat16")
    # On a GPU, JAX's peak memory is the maximum since the process started.
    options.sizes.sort(key=lambda size: size[0] * size[1])
    return options


def size(text):
    height, width = text.split("x")
    return int(height), int(width)


def start_sides(options):
    """Starts keras-encnet's side and, with `--mmseg`, mmsegmentation's; returns them as a list."""
    name = f"keras-encnet, {options.backend}"
    sides = [start_ours(name, options.backend, options.dtype, options.device, options.isa)]
    if options.mmseg:
        sides += start_theirs(
            options.mmseg, options.compile, options.dtype, options.device, options.isa
        )
    introduce(sides, f"{options.dtype}, {options.device}", options.isa)
    if not options.mmseg:
        print("To compare with mmsegmentation, pass its environment's python as --mmseg; see")
        print("benchmarks/README.md.")
    return sides


def start_ours(name, backend, dtype, device="cpu", isa=None):
    path = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
    env = {"KERAS_BACKEND": backend, "PYTHONPATH": path, **environment(device, isa)}
    command = [sys.executable, HERE / "keras_side.py", "--dtype", dtype, "--device", device]
    return Side(name, command, env)


def start_theirs(python, compiled, dtype, device="cpu", isa=None, suffix=""):
    """Starts mmsegmentation and, if wanted, a second side with torch.compile."""
    env = environment(device, isa)
    command = [python, HERE / "mmseg_reference.py", "--device", device]
    if dtype == "mixed_bfloat16":
        command.append("--bf16")
    sides = [Side(f"mmsegmentation{suffix}", command, env)]
    if compiled:
        sides.append(Side(f"mmsegmentation, compiled{suffix}", [*command, "--compile"], env))
    return sides


def environment(device, isa):
    """The variables that every side needs."""
    env = {"TF_CPP_MIN_LOG_LEVEL": "3", **limited(isa)}
    if device == "cuda":
        # Several processes share the card.
        return {**env, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    return {**env, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}


def introduce(sides, how, isa=None):
    """Prints the versions of all libraries, and the processor."""
    ready = {key: value for side in sides for key, value in side.ready.items() if key != "ready"}
    print(", ".join(f"{key} {value}" for key, value in ready.items()))
    print(f"ResNet-50 EncNet, 19 classes, {how}")
    print(this_processor() + (f"; libraries limited to {isa}" if isa else ""), flush=True)


def take_turns(sides, products, runs, **request):
    """Asks every side once to warm up and then `runs` times, in turn.

    Returns the replies of the warm-up; a list of the other replies for each side; and the rates of
    `products`, unless they are `None`, as a list of dicts, one for each round."""
    saves = tempfile.TemporaryDirectory()
    with saves:
        first = []
        for i, side in enumerate(sides):
            path = os.path.join(saves.name, f"{i}.npy")
            first.append(side.ask(**{**request, "repeat": 1}, save=path))
        if request["what"] == "inference":
            for i, reply in enumerate(first[1:], 1):
                paths = [os.path.join(saves.name, f"{j}.npy") for j in (0, i)]
                reply["agreement"] = sides[0].ask(what="compare", paths=paths)["agreement"]
        replies, rates = [[] for _ in sides], []
        if products:
            products.measure()
        for _ in range(runs):
            for side, answers in zip(sides, replies, strict=True):
                answers.append(side.ask(**request))
            if products:
                rates.append(products.measure())
    return first, replies, rates


def rows(sides, replies):
    """Prints the seconds and peak memory of every side; returns their (median, largest)."""
    width = max(len(side.name) for side in sides)
    print(f"  {'':{width}}  seconds (min to max)      images/s   peak MB")
    summary = []
    for side, answers in zip(sides, replies, strict=True):
        seconds = [answer["seconds"] for answer in answers]
        rate = median(answer["images_per_second"] for answer in answers)
        peak = max(answer["peak_mb"] for answer in answers)
        summary.append((median(seconds), peak))
        span = f"({min(seconds):.3f} to {max(seconds):.3f})"
        print(f"  {side.name:{width}}  {median(seconds):7.3f} {span:18} {rate:8.2f} {peak:9.0f}")
    return summary


def table(sides, replies):
    """Prints `rows`, which it returns, and the first side's figures as ratios to the others'."""
    summary = (ours, our_peak), *others = rows(sides, replies)
    for side, (theirs, their_peak) in zip(sides[1:], others, strict=True):
        print(f"  compared with {side.name}: {ours / theirs:.3f} of its time", end=" ")
        print(f"({theirs / ours:.2f}× as fast), {our_peak / their_peak:.3f} of its memory")
    return summary

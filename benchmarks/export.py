"""Exported files: time and peak memory, compared with the Keras model and mmsegmentation in one run.

    python benchmarks/export.py [--mmseg PYTHON [--compile]] [--sizes 512x512 1024x2048]
        [--formats onnx openvino litert tf_saved_model] [--fixed] [--folding] [--int8]

writes the model of keras_side.py in each format and has every runtime, the model itself and
mmsegmentation compute the label map of the same image, in float32 and in bfloat16, each in its own
process, in turn. benchmarks/README.md says what is measured.
"""

import os
import sys
import tempfile
from pathlib import Path

from turns import (
    HERE,
    Side,
    environment,
    introduce,
    parser,
    rows,
    size,
    start_ours,
    start_theirs,
    take_turns,
)

RUNTIMES = {
    "onnx": "ONNX Runtime",
    "openvino": "OpenVINO",
    "litert": "LiteRT",
    "tf_saved_model": "SavedModel",
}
ORIGINALS = ("mmsegmentation", "mmsegmentation, compiled")
BFLOAT16, NORMS = ", bfloat16", ", norms not folded"


def main():
    command_line = parser(__doc__.splitlines()[0])
    command_line.add_argument("--formats", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    command_line.add_argument(
        "--dtypes", nargs="+", choices=("float32", "bfloat16"), default=("float32", "bfloat16")
    )
    command_line.add_argument("--fixed", action="store_true", help="also files for a fixed image size")
    command_line.add_argument(
        "--folding", action="store_true", help="also without folding the batch norms"
    )
    command_line.add_argument(
        "--int8", action="store_true", help="also quantized files (ONNX and LiteRT)"
    )
    options = command_line.parse_args()
    options.backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    options.sizes = sorted(options.sizes or [size("512x512"), size("1024x2048")])

    with tempfile.TemporaryDirectory(prefix="keras-encnet-") as scratch:
        files = write(options, Path(scratch))
        sides = start(options, files)
        introduce(sides, "cpu", options.isa)
        for height, width in options.sizes:
            fixed = [start_file(*file, options.isa) for file in files.get((height, width), [])]
            compare(sides + fixed, options.runs, height, width)
            for side in fixed:
                side.close()
        for side in sides:
            side.close()


def write(options, directory):
    """Exports everything; returns lists of (name, path) by image size, `None` for any size."""
    exporter = start_ours("the export", options.backend, "float32")
    files = {}

    def add(format, note="", for_size=None, **how):
        place = Path(tempfile.mkdtemp(dir=directory))
        reply = exporter.ask(what="export", path=str(place / format), format=format, **how)
        name = RUNTIMES[format] + note
        files.setdefault(for_size, []).append((name, reply["path"]))
        bytes_written = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        print(f"{name}: {bytes_written / 1e6:.0f} MB", flush=True)

    for format in options.formats:
        add(format)
        if options.folding:
            add(format, NORMS, norms=True)
        if options.int8 and format in ("onnx", "litert"):
            add(format, ", int8", calibrate=(256, 256))
        for image_size in options.sizes if options.fixed else ():
            add(format, f", {image_size[0]}×{image_size[1]} only", image_size, image_size=image_size)
    exporter.close()
    return files


def start(options, files):
    """Starts the sides that take any size; the Keras model in float32 is the first."""
    name = f"keras-encnet, {options.backend}"
    isa = options.isa
    sides = [start_ours(name, options.backend, "float32", isa=isa)]
    for dtype in options.dtypes:
        suffix = "" if dtype == "float32" else BFLOAT16
        policy = "float32" if dtype == "float32" else "mixed_bfloat16"
        if suffix:
            sides.append(start_ours(name + suffix, options.backend, policy, isa=isa))
        for name_of_file, path in files[None]:
            # Only OpenVINO computes in a precision other than the file's.
            if not suffix or path.endswith(".xml"):
                sides.append(start_file(name_of_file, path, isa, suffix))
        if options.mmseg:
            sides += start_theirs(options.mmseg, options.compile, policy, isa=isa, suffix=suffix)
    return sides


def start_file(name, path, isa, suffix=""):
    command = [sys.executable, HERE / "export_side.py", path]
    if suffix:
        command += ["--precision", "bf16"]
    return Side(name + suffix, command, environment("cpu", isa))


def compare(sides, runs, height, width):
    first, replies, _ = take_turns(sides, None, runs, what="inference", height=height, width=width)
    print(f"\n{height}×{width}, image to label map, {runs} in turn")
    seconds = {side.name: median for side, (median, _) in zip(sides, rows(sides, replies), strict=True)}
    first = {side.name: reply for side, reply in zip(sides, first, strict=True)}
    ours, *others = first
    print(f"  the same labels as {ours}:")
    for name in others:
        print(f"    {first[name]['agreement']:9.4%} {name}")
    for suffix in ("", BFLOAT16):
        exports = [name + suffix for name in RUNTIMES.values() if name + suffix in seconds]
        if exports:
            best = min(exports, key=seconds.get)
            dtype = suffix.strip(", ") or "float32"
            print(f"  the fastest export in {dtype}, {best}: ratio of its time to that of")
            for name in (f"{ours}{suffix}", *(each + suffix for each in ORIGINALS)):
                if name in seconds:
                    print(f"    {seconds[best] / seconds[name]:9.3f} {name}")
    for name in others:
        if NORMS in name:
            folded = name.replace(NORMS, "")
            presences = first[folded]["presence"], first[name]["presence"]
            change = max(abs(a - b) for a, b in zip(*presences, strict=True))
            print(f"  batch norms folded, {folded}: {seconds[folded] / seconds[name]:.3f} of the time,")
            print(f"    presence changed by {change:.1e}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

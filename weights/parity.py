"""Shows that conversion changes nothing, for every preset at its real size.

    python weights/parity.py --originals <their environment>/bin/python [--presets NAME …] [--table]

The PyTorch original writes a checkpoint with the release's format and name (`originals.py`), and runs
it on images of 97×131 and 130×128. On each backend, `EncNet.from_pytorch` reads it, and logits,
auxiliary and SE logits are compared: the largest difference over the largest magnitude. The weights
must be bitwise identical after `save_to_preset` and `from_preset`. Time and peak memory (on Linux) are
those of `from_pytorch` in a process that has imported Keras. Results are kept in `weights/parity.json`
and not measured again. `--table` writes them into `weights/README.md`.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import keras
import numpy as np

from keras_encnet import EncNet, list_presets
from keras_encnet.files import replacing
from keras_encnet.zoo.table import Preset

HERE = pathlib.Path(__file__).resolve().parent
RESULTS, README = HERE / "parity.json", HERE / "README.md"
SIZES = ("97x131", "130x128")
BACKENDS = ("tensorflow", "jax", "torch")
BEGIN, END = "<!-- parity -->", "<!-- /parity -->"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--originals", help="Python of the environment for originals.py")
    parser.add_argument("--presets", nargs="*", help="default: all")
    parser.add_argument("--table", action="store_true", help="write the table into README.md")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for preset in list_presets():
        wanted = options.presets is None or preset.name in options.presets
        if options.originals and wanted and preset.name not in results:
            results[preset.name] = measure(preset, options.originals)
            write_json(RESULTS, results)
            print(json.dumps({preset.name: results[preset.name]}), flush=True)
    text = table(results)
    print(text)
    if options.table:
        before, _, rest = README.read_text("utf-8").partition(BEGIN)
        README.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.partition(END)[2]}", "utf-8")


def measure(preset: Preset, originals: str) -> dict:
    """The results for one preset, by backend."""
    with tempfile.TemporaryDirectory(prefix="keras-encnet-") as scratch:
        outputs = pathlib.Path(scratch, "outputs.npz")
        checkpoint = pathlib.Path(scratch, pathlib.PurePosixPath(preset.release["url"]).name)
        run_original(originals, "write", preset, checkpoint)
        run_original(originals, "run", preset, checkpoint, outputs, *SIZES)
        found = {"checkpoint_mb": checkpoint.stat().st_size / 1e6}
        for backend in BACKENDS:
            child = subprocess.run(
                [sys.executable, __file__, "--one", checkpoint, outputs],
                env={**os.environ, "KERAS_BACKEND": backend},
                stdout=subprocess.PIPE,
                check=True,
            )
            found[backend] = json.loads(child.stdout.splitlines()[-1])
    return found


def run_original(
    originals: str, command: str, preset: Preset, checkpoint: str | os.PathLike, *arguments
) -> None:
    """Runs `originals.py`'s `command`, `"write"` or `"run"`, with the Python `originals`."""
    record = {
        "format": preset.release["format"],
        "config": preset.source.split(": ")[1],
        "backbone": preset.backbone,
        "num_classes": preset.num_classes,
        "laterals": preset.laterals,
        "labels": list(preset.labels),
        "palette": preset.palette.tolist(),
    }
    with tempfile.TemporaryDirectory(prefix="keras-encnet-") as scratch:
        path = pathlib.Path(scratch, "record.json")
        path.write_text(json.dumps(record))
        script = HERE / "originals.py"
        subprocess.run([originals, script, command, path, checkpoint, *arguments], check=True)


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of two arrays over the largest magnitude of the second."""
    found = float(abs(ours - theirs).max() / abs(theirs).max())
    # NaN compares false with everything, so report it as infinity.
    return float("inf") if found != found else found


def write_json(path: pathlib.Path, value: dict) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(json.dumps(value, indent=1) + "\n")


def measure_backend(checkpoint: str, outputs: str) -> None:
    """Measures the current backend, in its own process, and prints JSON."""
    sys.path.insert(0, str(HERE.parent / "benchmarks"))
    from turns import forget_peak, peak_mb

    # A backend's own start must not count as conversion.
    keras.layers.Dense(1)(np.zeros((1, 1)))
    forget_peak()
    before = peak_mb()
    start = time.perf_counter()
    model = EncNet.from_pytorch(checkpoint)
    found = {"seconds": time.perf_counter() - start, "memory_mb": peak_mb() - before}

    theirs = np.load(outputs)
    worst = {}
    images = {size: theirs[f"{size}/image"][None] for size in SIZES}
    for size, pixels in images.items():
        # Not `model.heads`, which is not compiled: JAX then takes minutes.
        ours = model.heads_network().predict_on_batch(pixels.astype("float32"))
        for key, value in ours.items():
            worst[key] = max(worst.get(key, 0.0), difference(value[0], theirs[f"{size}/{key}"]))
    found |= worst

    with tempfile.TemporaryDirectory(prefix="keras-encnet-") as scratch:
        directory = pathlib.Path(scratch, "preset")
        model.save_to_preset(directory)
        found["preset_mb"] = sum(file.stat().st_size for file in directory.iterdir()) / 1e6
        start = time.perf_counter()
        again = EncNet.from_preset(directory)
        found["load_seconds"] = time.perf_counter() - start
        pairs = zip(model.get_weights(), again.get_weights(), strict=True)
        found["bitwise"] = all(a.tobytes() == b.tobytes() for a, b in pairs)

        model.save_to_preset(directory, dtype="float16")
        found["half_mb"] = sum(file.stat().st_size for file in directory.iterdir()) / 1e6
        pixels = images[SIZES[0]]
        expected = model.predict_on_batch(pixels)
        rounded = EncNet.from_preset(directory).predict_on_batch(pixels)
        found["half"] = difference(rounded, expected)
    print(json.dumps(found))


def table(results: dict) -> str:
    """The results as a Markdown table."""
    rows = [
        "| preset | logits | auxiliary | SE | bit for bit | float16 | convert | memory | load |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, found in results.items():
        each = [found[backend] for backend in BACKENDS]
        worst = [max(result[key] for result in each) for key in ("logits", "aux", "se")]
        rows.append(
            f"| {name} | "
            + " | ".join(f"{value:.1e}" for value in worst)
            + f" | {'yes' if all(result['bitwise'] for result in each) else 'NO'}"
            + f" | {max(result['half'] for result in each):.1e}, "
            + f"{each[0]['half_mb']:.0f} of {each[0]['preset_mb']:.0f} MB"
            + f" | {_span(each, 'seconds')} s"
            + f" | {max(r['memory_mb'] for r in each) / found['checkpoint_mb']:.1f} ×"
            + f" | {_span(each, 'load_seconds')} s |"
        )
    return "\n".join(rows)


def _span(each, key):
    values = [result[key] for result in each]
    return f"{min(values):.1f} to {max(values):.1f}"


if __name__ == "__main__":
    if "--one" in sys.argv:
        measure_backend(*sys.argv[2:])
    else:
        main()

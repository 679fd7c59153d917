"""Converts the releases into `weights/out/`, checks each, and writes a manifest.

    python weights/convert.py [NAME …] [--originals <their environment>/bin/python] [--dtype float16]

Names are those of `keras-encnet presets`; the default is all sixteen. Each release is downloaded into
the cache, its checksum is compared with the table's, and the preset is written to `weights/out/NAME`.
With `--originals` (see `originals.py`) the original runs the same file, and logits, auxiliary and SE
logits must agree to 1e-4 of their largest magnitude on a fixed image (5e-3 if stored in float16).
`weights/out/manifest.json` records each preset's source, checksums, sizes and differences. Presets in
the manifest are not converted again.
"""

import argparse
import hashlib
import json
import pathlib
import tempfile

import numpy as np
from parity import difference, run_original, write_json

from keras_encnet import EncNet, list_presets
from keras_encnet.presets import save_preset
from keras_encnet.presets.directory import WEIGHTS
from keras_encnet.presets.download import download_release
from keras_encnet.zoo.table import Preset, find, suggestion

HERE = pathlib.Path(__file__).resolve().parent
SIZE = (130, 128)
TOLERANCES = {"float32": 1e-4, "float16": 5e-3}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--originals", help="Python of the environment for originals.py")
    parser.add_argument("--dtype", choices=("float32", "float16"), help="dtype of the stored kernels")
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "out")
    options = parser.parse_args(argv)
    for name in options.names:
        if find(name) is None:
            parser.error(f"unknown preset {name!r}.{suggestion(name)}")
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "manifest.json"
    manifest = json.loads(path.read_text()) if path.exists() else {}
    for preset in map(find, options.names) if options.names else list_presets():
        if not is_done(manifest.get(preset.name), preset, options):
            manifest[preset.name] = convert(preset, options)
            write_json(path, manifest)
        print(preset.name, json.dumps(manifest[preset.name]), flush=True)


def is_done(entry: dict | None, preset: Preset, options: argparse.Namespace) -> bool:
    """Whether the manifest's entry of a preset holds what the options ask for."""
    return (
        entry is not None
        and entry["dtype"] == (options.dtype or "float32")
        and (entry["differences"] is not None or not options.originals)
        and (options.out / preset.name / WEIGHTS).is_file()
    )


def convert(preset: Preset, options: argparse.Namespace) -> dict:
    """Converts one release; returns its entry in the manifest."""
    checkpoint = download_release(preset.release, size_mb=preset.size_mb)
    model = EncNet.from_pytorch(checkpoint)
    expected = {"num_classes": preset.num_classes, "laterals": preset.laterals}
    expected |= {"backbone_name": preset.backbone, "align_corners": preset.align_corners}
    for name, value in expected.items():
        if getattr(model, name) != value:
            raise ValueError(
                f"The release of {preset.name} must have {name}={value!r}, as in the table. "
                f"Received: {getattr(model, name)!r}"
            )
    directory = options.out / preset.name
    save_preset(model, directory, options.dtype)
    # This checks the file, not the model in memory.
    differences = options.originals and compare(directory, preset, checkpoint, options)
    return {
        "release": preset.release["url"],
        "release_sha256": sha256(checkpoint),
        "release_bytes": checkpoint.stat().st_size,
        "weights_sha256": sha256(directory / WEIGHTS),
        "weights_bytes": (directory / WEIGHTS).stat().st_size,
        "dtype": options.dtype or "float32",
        "parameters": model.count_params(),
        "differences": differences,
    }


def compare(
    directory: pathlib.Path, preset: Preset, checkpoint: pathlib.Path, options: argparse.Namespace
) -> dict[str, float]:
    """The largest difference from the original over the largest magnitude, by head.

    Raises:
        ValueError: if one is above the tolerance.
    """
    size = "x".join(map(str, SIZE))
    with tempfile.TemporaryDirectory(prefix="keras-encnet-") as scratch:
        outputs = pathlib.Path(scratch, "outputs.npz")
        run_original(options.originals, "run", preset, checkpoint, outputs, size)
        with np.load(outputs) as theirs:
            expected = {key: theirs[f"{size}/{key}"] for key in ("logits", "aux", "se")}
            pixels = theirs[f"{size}/image"]
    heads = EncNet.from_preset(directory).heads_network()
    ours = heads.predict_on_batch(pixels[None].astype("float32"))
    differences = {key: difference(ours[key][0], value) for key, value in expected.items()}
    tolerance = TOLERANCES[options.dtype or "float32"]
    if max(differences.values()) > tolerance:
        raise ValueError(
            f"{preset.name} must agree with the original to {tolerance:g}. Received: {differences}"
        )
    return differences


def sha256(path: pathlib.Path) -> str:
    """The hexadecimal SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    main()

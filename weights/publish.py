"""Publishes the presets that `convert.py` wrote on the Hugging Face Hub, each with a model card.

    python weights/publish.py NAMESPACE [NAME …] [--photo street.jpg] [--dry-run]

A preset is published as `NAMESPACE/encnet_NAME`: its files in `weights/out/`, if their checksum is the
manifest's, a card, and a picture of the model's result for `--photo` (default: a street scene that the
package draws). `--dry-run` lists the files and writes the cards into `weights/out/cards/` without
publishing. The last lines printed are the `hub` entries for `keras_encnet/zoo/models.json`, which
make `from_preset` download from there.
"""

import argparse
import json
import pathlib
import shutil
import tempfile

from convert import HERE, sha256

from keras_encnet import EncNet
from keras_encnet.demo import scenes
from keras_encnet.presets.card import model_card
from keras_encnet.presets.directory import FILES, WEIGHTS
from keras_encnet.presets.hub import publish
from keras_encnet.zoo.table import Preset, find


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("namespace", help="user or organization")
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all in the manifest")
    parser.add_argument("--photo", help="image for the picture")
    parser.add_argument("--dry-run", action="store_true", help="publish nothing")
    parser.add_argument(
        "--unverified", action="store_true", help="also publish presets not compared with an original"
    )
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "out")
    options = parser.parse_args(argv)
    manifest = json.loads((options.out / "manifest.json").read_text())
    for name in options.names or manifest:
        preset = find(name)
        if preset is None or preset.name not in manifest:
            parser.error(f"{name!r} is not in {options.out / 'manifest.json'}. Convert it first.")
        publish_one(preset, manifest[preset.name], options)


def publish_one(preset: Preset, entry: dict, options: argparse.Namespace) -> None:
    """Publishes one preset, given its entry in the manifest."""
    directory, repo = options.out / preset.name, f"{options.namespace}/encnet_{preset.name}"
    found = sha256(directory / WEIGHTS)
    if found != entry["weights_sha256"]:
        raise ValueError(f"{directory / WEIGHTS} has changed since it was checked. Convert it again.")
    if entry["differences"] is None and not options.unverified:
        raise ValueError(
            f"{preset.name} was not compared with its original. Run `convert.py {preset.name} "
            "--originals PYTHON`, or publish it with --unverified."
        )
    model = EncNet.from_preset(directory)
    photo = options.photo or scenes(1, size=(384, 512))[0][0]
    with tempfile.TemporaryDirectory(prefix="keras-encnet-") as scratch:
        picture = pathlib.Path(scratch, "example.png")
        model.segment(photo).overlay().save(picture)
        content = {file: directory / file for file in FILES}
        content |= {"README.md": card(preset, entry, model, repo).encode(), picture.name: picture}
        if options.dry_run:
            cards = options.out / "cards"
            cards.mkdir(exist_ok=True)
            (cards / f"{preset.name}.md").write_bytes(content["README.md"])
            shutil.copyfile(picture, cards / f"{preset.name}.png")
            print(f"{repo} would get")
            for file, source in content.items():
                at = cards / f"{preset.name}{pathlib.Path(file).suffix}"
                size = (source if file in FILES else at).stat().st_size
                print(f"  {file:20} {size:12,} bytes")
            return
        commit = publish(content, repo, commit_message=f"{preset.name}, by keras-encnet")
    hub = {"repo": repo, "revision": commit.rsplit("/", 1)[-1], "sha256": found}
    print(f'{preset.name}: "hub": {json.dumps(hub)}', flush=True)


def card(preset: Preset, entry: dict, model: EncNet, repo: str) -> str:
    """The model card of a preset."""
    published = {
        "mIoU, one scale (%)": preset.miou,
        "mIoU, several scales and flip (%)": preset.miou_ms_flip,
        "pixel accuracy, several scales and flip (%)": preset.pixel_accuracy,
    }
    differences = entry["differences"] or {}
    measured = {
        f"largest difference from the original, {k}": f"{v:.1e}" for k, v in differences.items()
    }
    return model_card(
        model,
        repo,
        title=f"EncNet, {preset.backbone}, {preset.dataset}",
        picture="example.png",
        published={what: value for what, value in published.items() if value is not None},
        measured=measured,
        licence=preset.licence.lower(),
        source=f"The weights are those of [{preset.source}]({preset.release['url']}), converted.",
        terms=preset.terms,
    )


if __name__ == "__main__":
    main()

"""The table of commands with their arguments. It imports nothing heavy."""

import argparse

from keras_encnet.cli_checks import (
    check_data,
    check_evaluate,
    check_export,
    check_train,
    no_check,
)
from keras_encnet.cli_options import (
    DATA,
    HOW,
    LABELS,
    MODEL,
    SEED,
    SIDES,
    SPLIT,
    VALIDATION,
    argument,
)
from keras_encnet.cli_training import TRAINING
from keras_encnet.cli_types import TFDS, directory, file, integer
from keras_encnet.version import __version__

PREDICTION_FORMATS = ("png", "cityscapes", "ade20k", "rle")

# {command: (check, help, arguments)}
COMMANDS = {
    "demo": (
        no_check,
        "train a small EncNet on drawn street scenes, evaluate it and show the result",
        [
            argument(
                "--out",
                type=directory,
                default="encnet-demo",
                help="directory for the model and the pictures",
            ),
            argument("--seed", type=SEED, default=0, help="seed of scenes, batches and weights"),
        ],
    ),
    "train": (
        check_train,
        "train on images and masks; run again after an interruption, it resumes",
        TRAINING,
    ),
    "segment": (
        no_check,
        "find the class of every pixel of photographs or videos",
        [
            argument(
                "photo",
                nargs="+",
                help="images, videos, patterns such as 'photos/*.jpg' or 'clips/*.mp4', or folders, "
                "whose videos and earlier results (*_labels.png, *_overlay.png) are left out",
            ),
            argument("--model", required=True, help=MODEL),
            argument(
                "--out",
                type=directory,
                default=".",
                help="directory for the label maps and overlays; photographs of the same name get "
                "directories of their own in it",
            ),
            *HOW,
            argument(
                "--confidence",
                action="store_true",
                help="fade uncertain pixels in the overlay, and print how sure each class is",
            ),
        ],
    ),
    "evaluate": (
        check_evaluate,
        "print the IoU of each class; with a directory, it resumes after an interruption",
        [
            *DATA,
            argument(
                "--split",
                help=f"split {SPLIT}; default: val, or test; all of an annotation tool's export",
            ),
            argument("--model", required=True, help=MODEL),
            *HOW,
            argument("--limit", type=integer(1), help="use this many images, the first ones"),
            argument("--report", type=directory, help="directory for a page with figures and pictures"),
            argument(
                "--save-predictions",
                type=directory,
                help="directory for the label maps; with it, --images need no --masks",
            ),
            argument(
                "--prediction-format",
                choices=PREDICTION_FORMATS,
                help="default: png; cityscapes and ade20k are what their servers take, rle is one CSV",
            ),
        ],
    ),
    "check-data": (
        check_data,
        "count images and classes, and look for what is wrong; status 1 if anything is",
        [
            *DATA,
            argument("--num-classes", type=integer(1), help="number of classes, without --labels"),
            argument(
                "--split",
                help=f"split {SPLIT} to check; default: all with masks that are there, without "
                f"trainval and trainaug; of {TFDS}NAME, train",
            ),
            *VALIDATION[:3],
            argument("--json", type=file, help="file for the figures"),
            argument("--picture", type=file, help="PNG file for samples and the histogram"),
        ],
    ),
    "convert": (
        no_check,
        "convert a checkpoint of mmsegmentation, PyTorch-Encoding or timm",
        [
            argument("input", help=".pth, .zip or .safetensors file"),
            argument("output", type=directory, help="directory for the model"),
            LABELS,
            argument(
                "--align-corners",
                action=argparse.BooleanOptionalAction,
                help="corner rule of resizing; default: the checkpoint's",
            ),
            argument("--dtype", choices=("float32", "float16"), help="dtype of the stored kernels"),
        ],
    ),
    "export": (
        check_export,
        "write a file for servers and phones",
        [
            argument("model", help=MODEL),
            argument("path", type=file, help="path of the file, or of the SavedModel's directory"),
            argument(
                "--format", default="tf_saved_model", help="tf_saved_model, onnx, litert or openvino"
            ),
            argument(
                "--outputs",
                nargs="+",
                choices=("labels", "presence", "confidence", "logits", "probabilities"),
                default=("labels", "presence"),
                help="what the model in the file returns",
            ),
            argument("--image-size", **SIDES, help="accept this size only"),
            argument("--batch-size", type=integer(1), help="accept this many images per batch only"),
            argument(
                "--dtype",
                choices=("float32", "float16"),
                default="float32",
                help="float16 for half the file size",
            ),
            argument("--quantize", choices=("int8",), help="8-bit integers, for onnx and litert"),
            argument("--calibration", help="folder of images to calibrate the quantization"),
            argument("--version", type=integer(0), help="write a SavedModel to PATH/VERSION"),
            argument("--verify", action="store_true", help="compare the file with the model"),
        ],
    ),
    "presets": (no_check, "list the published models", []),
}


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="keras-encnet",
        description="EncNet for Keras 3: train, segment, evaluate and export.",
        epilog="keras-encnet COMMAND --help shows the arguments of a command.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (check, help, arguments) in COMMANDS.items():
        command = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        command.set_defaults(check=check, error=command.error)
        groups = {None: command}
        for names, options in arguments:
            options = dict(options)
            title = options.pop("group", None)
            if title not in groups:
                groups[title] = command.add_argument_group(title)
            groups[title].add_argument(*names, **options)
    return parser

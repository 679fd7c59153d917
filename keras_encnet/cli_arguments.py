"""The table of commands with their arguments, and the checks of these. It imports nothing heavy."""

import argparse
import os

from keras_encnet.cli_types import (
    DATASETS,
    EXPORTS,
    MIN_SIDE,
    TFDS,
    class_names,
    dataset,
    directory,
    file,
    integer,
    positive,
    share,
    value_pair,
)
from keras_encnet.version import __version__

PROTOCOLS = ("mmsegmentation", "mmsegmentation-0.x", "pytorch-encoding")
PREDICTION_FORMATS = ("png", "cityscapes", "ade20k", "rle")

# === Checks of several arguments ===


def check_train(arguments, error):
    given = _given(arguments)
    check_data(arguments, error)
    if (
        arguments.images
        and not arguments.annotations
        and not (arguments.labels or arguments.num_classes)
    ):
        error("--labels or --num-classes is required.")
    if arguments.labels and arguments.num_classes not in (None, len(arguments.labels)):
        error(
            f"--labels must be {arguments.num_classes} names if --num-classes is "
            f"{arguments.num_classes}. Received: {len(arguments.labels)} names. --labels is enough."
        )
    if arguments.preset:
        others = ("--backbone", "--backbone-weights", "--width", "--head-channels", "--laterals")
        _refuse_together(given, "--preset", others, error)


def check_evaluate(arguments, error):
    check_data(arguments, error)
    if arguments.prediction_format and not arguments.save_predictions:
        error("--prediction-format is only of use with --save-predictions.")


def check_data(arguments, error):
    """Checks the arguments in `DATA` and `VALIDATION`."""
    if arguments.camvid:
        _refuse_together(_given(arguments), "--camvid", ("--dataset", "--root"), error)
        arguments.dataset, arguments.root = "camvid", arguments.camvid
    given = _given(arguments)
    if arguments.dataset:
        _check_dataset(arguments, given, error)
    else:
        _check_folders(arguments, given, error)
    if getattr(arguments, "val_share", None):
        others = ("--val-images", "--val-masks", "--val-annotations", "--val-split")
        _refuse_together(given, "--val-share", others, error)
    froms = [old for old, _ in arguments.label_map]
    twice = sorted({old for old in froms if froms.count(old) > 1})
    if twice:
        error(f"--label-map must rename each value once. Received: {', '.join(map(str, twice))} twice.")


def _check_dataset(arguments, given, error):
    option = "--camvid" if arguments.camvid else "--dataset"
    files = ("--images", "--masks", "--annotations", "--val-images", "--val-masks", "--val-annotations")
    others = (*files, "--label-map", "--num-classes")
    _refuse_together(given, option, others, error)
    if arguments.dataset != "labelme" and "--labels" in given:
        error(f"{option} already says what --labels would. Leave one of them out.")
    if not arguments.dataset.startswith(TFDS):
        if not arguments.root:
            error(f"--dataset {arguments.dataset} needs --root, the directory of the data set.")
        if not os.path.isdir(arguments.root):
            named = "--camvid" if arguments.camvid else "--root"
            error(f"{named} must be a directory. Received: {arguments.root!r}.")


def _check_folders(arguments, given, error):
    # Of images alone, `evaluate` can save predictions.
    needs_masks = not getattr(arguments, "save_predictions", None)
    if not arguments.images or needs_masks and not (arguments.masks or arguments.annotations):
        error(
            "--images and --masks are required: two folders, or patterns such as 'images/*.jpg'. "
            "Otherwise --images and --annotations, or --dataset and --root."
        )
    options = ("--root", "--split", "--val-split")
    useless = [option for option in options if option in given]
    if useless:
        error(f"{useless[0]} is only of use with --dataset.")
    _check_annotations(given, "--", error)
    if given & {"--val-images", "--val-masks", "--val-annotations"}:
        _check_annotations(given, "--val-", error)
        if "--val-images" not in given or not given & {"--val-masks", "--val-annotations"}:
            error(
                "--val-images and --val-masks must be given together. --val-annotations may take the "
                "place of --val-masks."
            )


def _check_annotations(given, prefix, error):
    annotations = f"{prefix}annotations"
    if annotations in given:
        _refuse_together(given, annotations, (f"{prefix}masks", "--label-map"), error)


def check_export(arguments, error):
    if arguments.quantize and not arguments.calibration:
        error("--quantize needs --calibration, a folder of images of the kind that the model will see.")
    if arguments.calibration and not arguments.quantize:
        error("--calibration is only of use with --quantize int8.")
    if arguments.version is not None and arguments.format != "tf_saved_model":
        error(f"--version is only for --format tf_saved_model. Received: --format {arguments.format}.")


def no_check(arguments, error):
    pass


def _given(arguments):
    """The options that were given and have no default value."""
    return {f"--{name.replace('_', '-')}" for name, value in vars(arguments).items() if value}


def _refuse_together(given, option, others, error):
    clashing = [other for other in others if other in given]
    if clashing:
        error(f"{option} already says what {' and '.join(clashing)} would. Leave one of them out.")


# === Arguments ===


def argument(*names, help, **options):
    """The arguments of `add_argument`; a default that says something is added to the help text."""
    default = options.get("default")
    if default not in (None, []):
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        help = f"{help} (default: {shown})"
    return names, {"help": help, **options}


MODEL = "name of a published model, a directory, or hf://user/repo"
LABELS = argument("--labels", type=class_names, help="class names, separated by commas")
SEED = integer(0, 2**32 - 1)
SIDES = {"type": integer(MIN_SIDE), "nargs": 2, "metavar": ("H", "W")}
DATA = [
    argument("--images", help="folder, or pattern such as 'images/*.jpg'"),
    argument("--masks", help="folder, or pattern such as 'masks/*.png'"),
    argument(
        "--annotations",
        help="instead of --masks: a JSON file in COCO's format, or a CSV file of run-length codes",
    ),
    argument(
        "--dataset",
        type=dataset,
        metavar="NAME",
        help=f"instead of --images: a data set, {', '.join(DATASETS)}; the export of an annotation "
        f"tool, {', '.join(EXPORTS)}; or {TFDS}NAME",
    ),
    argument("--root", help="directory of --dataset"),
    argument("--camvid", help="the same as --dataset camvid --root"),
    LABELS,
    argument(
        "--label-map",
        type=value_pair,
        action="extend",
        nargs="+",
        default=[],
        metavar="FROM:TO",
        help="mask values to rename, such as 255:1",
    ),
]
SPLIT = "of --dataset"
TRAINING_SPLIT = argument(
    "--split", help=f"split {SPLIT} to train on; default: train, and all of an annotation tool's export"
)
VALIDATION = [
    argument("--val-images", help="folder or pattern of images to validate on"),
    argument("--val-masks", help="folder or pattern of their masks"),
    argument("--val-annotations", help="JSON or CSV file with their annotations"),
    argument("--val-split", help=f"split {SPLIT} to validate on; default: val, if there is one"),
    argument(
        "--val-share",
        type=share,
        help="share of the pairs to validate on instead, chosen at random; the same ones each time",
    ),
]
HOW = [
    argument(
        "--resize",
        type=integer(MIN_SIDE),
        nargs=2,
        metavar=("LONG", "SHORT"),
        help="sides to fit images into",
    ),
    argument(
        "--no-resize",
        dest="resize",
        action="store_false",
        default=None,
        help="see images at their own size",
    ),
    argument("--window", **SIDES, help="size of the sliding window"),
    argument(
        "--no-window",
        dest="window",
        action="store_false",
        default=None,
        help="see the whole image at once",
    ),
    argument("--stride", type=integer(1), nargs=2, metavar=("ROWS", "COLUMNS"), help="its step"),
    argument("--ratios", type=positive, nargs="+", help="scales to see each image at; default: 1"),
    argument("--flip", action="store_true", default=None, help="see the mirror image too"),
    argument(
        "--protocol", choices=PROTOCOLS, help="code base whose way to follow; default: the model's"
    ),
    argument(
        "--batch-size",
        type=integer(1),
        help="images or windows that the network sees at once; default: 1",
    ),
]

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
        [
            *DATA,
            TRAINING_SPLIT,
            *VALIDATION,
            argument(
                "--out",
                type=directory,
                required=True,
                help="directory for the model and the training state",
            ),
            argument("--num-classes", type=integer(1), help="number of classes, without --labels"),
            argument("--preset", help=f"model to start from: {MODEL}"),
            argument("--backbone", help="backbone of a new model (default: resnet50)"),
            argument(
                "--backbone-weights",
                help="'imagenet' (downloaded), or a checkpoint; default: random weights, which need "
                "far more images and epochs",
            ),
            argument("--width", type=positive, help="factor on the backbone's channels (default: 1.0)"),
            argument("--head-channels", type=integer(1), help="channels of the head (default: 512)"),
            argument("--laterals", action="store_true", help="feed shallower features to the head too"),
            argument(
                "--epochs",
                type=integer(1),
                default=40,
                help="epochs in total; a larger number extends an earlier run",
            ),
            argument("--batch-size", type=integer(1), default=8, help="images per step"),
            argument("--size", **SIDES, default=(512, 512), help="size of the crops"),
            argument(
                "--optimizer",
                choices=("sgd", "adamw"),
                help="default: sgd, as in mmsegmentation, with --preset or --backbone-weights; adamw "
                "without, because sgd trains random weights slowly",
            ),
            argument(
                "--learning-rate",
                type=positive,
                help="at the start, from where it falls until the last step; default: 0.01 for sgd, "
                "0.001 for adamw",
            ),
            argument("--balance", action="store_true", help="give rare classes larger weights"),
            argument("--dtype", help="dtype policy, such as mixed_bfloat16"),
            argument("--validate-every", type=integer(1), default=1, help="epochs between validations"),
            argument("--seed", type=SEED, default=0, help="seed of weights, order, crops and dropout"),
        ],
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
        for names, options in arguments:
            command.add_argument(*names, **options)
    return parser

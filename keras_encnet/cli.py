"""The command line: the table of commands and their arguments, and what all commands share.

Keras takes seconds to import. So this module imports nothing heavy: a command is imported, from
`commands.py`, when its arguments are known to be good.
"""

import argparse
import contextlib
import logging
import math
import os
import pathlib
import re
import sys
import tempfile
import warnings

from keras_encnet.version import __version__

TF_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
MIN_SIDE = 32  # `data.conventions.MIN_SIZE`, without the import


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the arguments, by default those of the process.

    Returns:
        The exit status: 0, 1 after an error, 130 after Ctrl-C, 141 if standard output was closed.

    Raises:
        SystemExit: with status 2 for wrong arguments, 0 for `--help` and `--version`.

    >>> main(["presets"])
    name ...
    0
    """
    arguments = _parser().parse_args(argv)
    # What these hold is no setting of a command.
    command, check, error = (vars(arguments).pop(name) for name in ("command", "check", "error"))
    check(arguments, error)
    program = f"keras-encnet {command}"

    def warn(message, *_):
        _say(f"{program}: warning: {' '.join(_text(message, command).split())}")

    with warnings.catch_warnings():
        warnings.showwarning = warn
        # Of libraries about each other; ours are none of these.
        warnings.simplefilter("ignore", FutureWarning)
        try:
            with _quiet_imports():
                from keras_encnet import commands

                # Keras imports it anyway, on every backend, when it first serializes a layer.
                with contextlib.suppress(ImportError):
                    import tensorflow  # noqa: F401
            getattr(commands, command)(arguments)
            sys.stdout.flush()
        except BrokenPipeError:
            # `| head` has read enough. Python would fail again when it flushes at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except (ValueError, OSError, ImportError) as problem:
            _say(f"{program}: {_text(problem, command)}")
            return 1
        except KeyboardInterrupt:
            _say(f"\nStopped.{_how_to_resume(arguments)}")
            return 130
    return 0


# === What is written to standard error ===


def _say(text):
    print(text, file=sys.stderr, flush=True)


def _text(problem, command):
    """An error or warning in the command line's words: `--image-size` instead of `image_size`."""
    text = problem.text(command_line=True) if hasattr(problem, "text") else str(problem)
    if isinstance(problem, OSError) and problem.filename:
        text = f"{problem.filename}: {problem.strerror}"
    options = {names[0].lstrip("-").replace("-", "_"): names[0] for names, _ in COMMANDS[command][2]}

    def option(match):
        name, value = match.groups()
        return " ".join(filter(None, [options[name], value])) if name in options else match[0]

    text = re.sub(r"`(\w+)(?:=(?:'(\w+)')?)?`", option, text)
    return text.replace("`keras_encnet.list_presets()`", "`keras-encnet presets`")


def _how_to_resume(arguments):
    if not hasattr(arguments, "out"):
        return ""
    checkpoints = pathlib.Path(arguments.out, "training").glob("step-*.keras")
    return " Run the same command again to resume." if any(checkpoints) else ""


@contextlib.contextmanager
def _quiet_imports():
    """Keeps TensorFlow's notices off the terminal, unless its log level is set to 0.

    Some are written at every log level. So standard error goes to a file during the import, and is
    shown only if that fails.
    """
    if os.environ.setdefault(TF_LOG_LEVEL, "3") == "0" or sys.stderr is None:
        yield
        return
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(terminal, kept.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


# === Types of arguments ===


def integer(least, most=math.inf):
    """A function that parses an integer from `least` to `most`.

    >>> integer(1)("8")
    8
    """

    def parse(text):
        value = int(text) if re.fullmatch(r"[+-]?\d+", text) else None
        if value is None or not least <= value <= most:
            upper = f" to {most}" if most < math.inf else " up"
            raise argparse.ArgumentTypeError(
                f"must be an integer from {least}{upper}. Received: {text!r}"
            )
        return value

    return parse


def positive(text):
    """Parses a number above 0.

    >>> positive("1e-3")
    0.001
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be a number above 0. Received: {text!r}")
    return value


def value_pair(text):
    """Parses `FROM:TO`.

    >>> value_pair("255:1")
    (255, 1)
    """
    match = re.fullmatch(r"(-?\d+):(\d+)", text)
    if not match:
        raise argparse.ArgumentTypeError(
            f"must be FROM:TO, two integers such as 255:1, TO from 0 up. Received: {text!r}"
        )
    return int(match[1]), int(match[2])


def class_names(text):
    """Parses names that are separated by commas.

    >>> class_names("sky, road")
    ['sky', 'road']
    """
    names = [name.strip() for name in text.split(",")]
    if not all(names):
        raise argparse.ArgumentTypeError(
            f"must be names separated by commas, such as sky,road,car. Received: {text!r}"
        )
    return names


def directory(text):
    """A directory that exists, or can be made."""
    return _writable(text, pathlib.Path(text))


def file(text):
    """A file in a directory that exists, or can be made."""
    return _writable(text, pathlib.Path(text).parent)


def _writable(text, place):
    place = place.absolute()
    above = next(each for each in (place, *place.parents) if os.path.lexists(each))
    if not above.is_dir():
        raise argparse.ArgumentTypeError(
            f"must be in a directory. Received: {text!r}, where {above} is a file"
            if above != place
            else f"must be a directory. Received: {text!r}, a file"
        )
    if not os.access(above, os.W_OK | os.X_OK):
        raise argparse.ArgumentTypeError(
            f"must be in a directory that you can write to. Received: {text!r}, where {above} is not"
        )
    return text


# === Checks of several arguments ===


def check_train(arguments, error):
    given = _given(arguments)
    _check_source(arguments, error)
    if arguments.camvid:
        _refuse_together(given, "--camvid", ("--val-images", "--val-masks", "--num-classes"), error)
    elif bool(arguments.val_images) != bool(arguments.val_masks):
        error("--val-images and --val-masks must be given together.")
    elif not (arguments.labels or arguments.num_classes):
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
    _check_source(arguments, error)


def check_export(arguments, error):
    if arguments.quantize and not arguments.calibration:
        error("--quantize needs --calibration, a folder of images of the kind that the model will see.")
    if arguments.calibration and not arguments.quantize:
        error("--calibration is only of use with --quantize int8.")
    if arguments.version is not None and arguments.format != "tf_saved_model":
        error(f"--version is only for --format tf_saved_model. Received: --format {arguments.format}.")


def no_check(arguments, error):
    pass


def _check_source(arguments, error):
    """Checks the arguments in `DATA`."""
    given = _given(arguments)
    if arguments.camvid:
        others = ("--images", "--masks", "--labels", "--label-map")
        _refuse_together(given, "--camvid", others, error)
        if not os.path.isdir(arguments.camvid):
            error(f"--camvid must be a directory. Received: {arguments.camvid!r}.")
    elif not (arguments.images and arguments.masks):
        error("--images and --masks are required: two folders, or patterns such as 'images/*.jpg'.")
    froms = [old for old, _ in arguments.label_map]
    twice = sorted({old for old in froms if froms.count(old) > 1})
    if twice:
        error(f"--label-map must rename each value once. Received: {', '.join(map(str, twice))} twice.")


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
    argument("--camvid", help="directory of CamVid, instead of --images and --masks"),
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
            argument("--val-images", help="folder or pattern of images to validate on"),
            argument("--val-masks", help="folder or pattern of their masks"),
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
        "find the class of every pixel of photographs",
        [
            argument(
                "photo",
                nargs="+",
                help="image files, folders, or patterns such as 'photos/*.jpg'; of folders, earlier "
                "results (*_labels.png, *_overlay.png) are left out",
            ),
            argument("--model", required=True, help=MODEL),
            argument(
                "--out",
                type=directory,
                default=".",
                help="directory for the label maps and overlays; photographs of the same name get "
                "directories of their own in it",
            ),
        ],
    ),
    "evaluate": (
        check_evaluate,
        "print the IoU of each class on images and masks",
        [*DATA, argument("--model", required=True, help=MODEL)],
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
                choices=("labels", "presence", "logits", "probabilities"),
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


def _parser():
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


if __name__ == "__main__":
    sys.exit(main())

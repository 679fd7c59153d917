"""The command line: one function for each command, and the table of their arguments."""

import argparse
import pathlib
import sys

import keras

from keras_encnet import data, training
from keras_encnet.convert import backbone_from_checkpoint, is_backbone, read_checkpoint
from keras_encnet.demo.demo import run as run_demo
from keras_encnet.export import verify
from keras_encnet.inference import evaluate as evaluate_model
from keras_encnet.models.encnet import EncNet
from keras_encnet.presets import list_presets, save_preset
from keras_encnet.presets.cache import cache_directory
from keras_encnet.version import __version__


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the arguments, by default those of the process.

    Returns:
        The exit status: 0, 1 after an error, 130 after Ctrl-C.

    >>> main(["presets"])
    name ...
    0
    """
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, OSError, ImportError) as error:
        print(f"keras-encnet {arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        resumable = arguments.command in ("demo", "train")
        remedy = " Run the same command again to resume." if resumable else ""
        print(f"\nStopped.{remedy}", file=sys.stderr)
        return 130
    return 0


# === Commands ===


def demo(arguments):
    run_demo(arguments.out, seed=arguments.seed)


def train(arguments):
    out = pathlib.Path(arguments.out)
    validation, pairs = _validation_pairs(arguments), _pairs(arguments, "train")
    num_classes = arguments.num_classes or (pairs.labels and len(pairs.labels))
    if not num_classes:
        raise ValueError("--labels or --num-classes is required.")
    batches = data.batches(
        pairs,
        size=arguments.size,
        batch_size=arguments.batch_size,
        augment=True,
        seed=arguments.seed,
    )
    # These settings may differ when training is resumed.
    free = ("run", "command", "out", "val_images", "val_masks", "validate_every")
    settings = {name: value for name, value in vars(arguments).items() if name not in free}
    # Before anything is written.
    data.check_masks(pairs, num_classes)
    model = training.train(
        lambda: _compiled_model(
            arguments, pairs, num_classes, steps=arguments.epochs * batches.steps_per_epoch
        ),
        batches,
        directory=out / "training",
        epochs=arguments.epochs,
        settings=settings,
        validation_data=validation
        and data.batches(validation, size=None, batch_size=arguments.batch_size),
        validation_freq=arguments.validate_every,
    )
    model.save_to_preset(out / "model")
    print(f"\nThe model is in {out / 'model'}.")
    if validation:
        print(evaluate_model(model, validation))


def segment(arguments):
    _cache_jax_compilations()
    model = EncNet.from_preset(arguments.model)
    out = pathlib.Path(arguments.out)
    out.mkdir(parents=True, exist_ok=True)
    for photo in arguments.photo:
        result = model.segment(photo)
        stem = pathlib.Path(photo).stem
        result.save(out / f"{stem}_labels.png")
        result.overlay().save(out / f"{stem}_overlay.png")
        print(f"{photo}: {out / stem}_labels.png, {out / stem}_overlay.png")
        for label, area in result.areas().items():
            print(f"  {label:20} {100 * area:5.1f} %")


def evaluate(arguments):
    _cache_jax_compilations()
    model = EncNet.from_preset(arguments.model)
    pairs = _pairs(arguments, "val")
    data.check_masks(pairs, model.num_classes, model.ignore_index, training=False)
    print(evaluate_model(model, pairs))


def convert(arguments):
    checkpoint = read_checkpoint(arguments.input)
    if is_backbone(checkpoint):
        model = backbone_from_checkpoint(checkpoint)
        use = f"EncNet({model.name!r}, num_classes, backbone_weights={arguments.output!r})"
    else:
        model = EncNet.from_pytorch(
            arguments.input,
            align_corners=arguments.align_corners,
            labels=_class_names(arguments),
        )
        use = f"EncNet.from_preset({arguments.output!r})"
    save_preset(model, arguments.output, arguments.dtype)
    print(f"{model.count_params():,} parameters. Load them with {use}")


def export(arguments):
    model = EncNet.from_preset(arguments.model)
    path = model.export(
        arguments.path,
        arguments.format,
        outputs=tuple(arguments.outputs),
        image_size=arguments.image_size and tuple(arguments.image_size),
        batch_size=arguments.batch_size,
        dtype=arguments.dtype,
        quantize=arguments.quantize,
        calibration=arguments.calibration,
        version=arguments.version,
    )
    print(f"The model is in {path}.")
    if arguments.verify:
        print(verify(model, path, image_size=arguments.image_size, batch_size=arguments.batch_size))


def presets(arguments):
    print(list_presets())


# === What commands share ===


def _pairs(arguments, split):
    """The pairs of `--images` and `--masks`, or one split of `--camvid`."""
    if arguments.camvid:
        return data.camvid(arguments.camvid, split)
    if not (arguments.images and arguments.masks):
        raise ValueError(
            "--images and --masks are required: two folders, or patterns such as 'images/*.jpg'."
        )
    return _folder(arguments, arguments.images, arguments.masks)


def _validation_pairs(arguments):
    if arguments.camvid:
        return data.camvid(arguments.camvid, "val")
    if not (arguments.val_images or arguments.val_masks):
        return None
    if not (arguments.val_images and arguments.val_masks):
        raise ValueError("--val-images and --val-masks must be given together.")
    return _folder(arguments, arguments.val_images, arguments.val_masks)


def _folder(arguments, images, masks):
    label_map = dict(arguments.label_map) or None
    return data.folder(images, masks, labels=_class_names(arguments), label_map=label_map)


def _class_names(arguments):
    return arguments.labels.split(",") if arguments.labels else None


def _compiled_model(arguments, pairs, num_classes, steps):
    if arguments.preset:
        model = EncNet.from_preset(
            arguments.preset, num_classes=num_classes, labels=pairs.labels, dtype=arguments.dtype
        )
    else:
        model = EncNet(
            arguments.backbone,
            num_classes,
            labels=pairs.labels,
            palette=pairs.palette,
            width=arguments.width,
            head_channels=arguments.head_channels,
            laterals=arguments.laterals,
            dtype=arguments.dtype,
        )
    weights = training.class_weights(pairs, num_classes).tolist() if arguments.balance else None
    model.compile(_optimizer(arguments, steps), class_weight=weights)
    return model


def _optimizer(arguments, steps):
    if arguments.optimizer == "sgd":
        rate = training.PolynomialDecay(arguments.learning_rate or 0.01, steps=steps)
        return training.SGD(rate)
    rate = training.PolynomialDecay(
        arguments.learning_rate or 1e-3, steps=steps, end=0.0, warmup=min(100, steps // 20)
    )
    return keras.optimizers.AdamW(rate, weight_decay=0.01)


def _cache_jax_compilations():
    """JAX compiles once per image size; with a cache on disk the next run need not compile again."""
    if keras.backend.backend() == "jax":
        import jax

        if jax.config.jax_compilation_cache_dir is None:
            jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "jax"))


# === Arguments ===


def argument(*names, help, **options):
    """The arguments of `add_argument`; a default that says something is added to the help text."""
    default = options.get("default")
    if default not in (None, []):
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        help = f"{help} (default: {shown})"
    return names, {"help": help, **options}


def value_pair(text):
    """Parses `FROM:TO`.

    >>> value_pair("255:1")
    (255, 1)
    """
    old, _, new = text.partition(":")
    return int(old), int(new)


MODEL = "name of a published model, a directory, or hf://user/repo"
LABELS = argument("--labels", help="class names, separated by commas")
DATA = [
    argument("--images", help="folder, or pattern such as 'images/*.jpg'"),
    argument("--masks", help="folder, or pattern such as 'masks/*.png'"),
    argument("--camvid", help="directory of CamVid, instead of --images and --masks"),
    LABELS,
    argument(
        "--label-map",
        type=value_pair,
        nargs="*",
        default=[],
        metavar="FROM:TO",
        help="mask values to rename, such as 255:1",
    ),
]

COMMANDS = {
    "demo": (
        demo,
        "train a small EncNet on drawn street scenes, evaluate it and show the result",
        [
            argument("--out", default="encnet-demo", help="directory for the model and the pictures"),
            argument("--seed", type=int, default=0, help="seed of scenes, batches and weights"),
        ],
    ),
    "train": (
        train,
        "train on images and masks; run again after an interruption, it resumes",
        [
            *DATA,
            argument("--val-images", help="folder or pattern of images to validate on"),
            argument("--val-masks", help="folder or pattern of their masks"),
            argument("--out", required=True, help="directory for the model and the training state"),
            argument("--num-classes", type=int, help="number of classes, without --labels"),
            argument("--preset", help=f"model to start from: {MODEL}"),
            argument("--backbone", default="resnet50", help="backbone of a new model"),
            argument("--width", type=float, default=1.0, help="factor on the backbone's channels"),
            argument("--head-channels", type=int, default=512, help="channels of the head"),
            argument("--laterals", action="store_true", help="feed shallower features to the head too"),
            argument("--epochs", type=int, default=40, help="epochs in total"),
            argument("--batch-size", type=int, default=8, help="images per step"),
            argument(
                "--size",
                type=int,
                nargs=2,
                default=(512, 512),
                metavar=("H", "W"),
                help="size of the crops",
            ),
            argument("--optimizer", choices=("sgd", "adamw"), default="sgd", help="optimizer"),
            argument("--learning-rate", type=float, help="default: 0.01 for sgd, 0.001 for adamw"),
            argument("--balance", action="store_true", help="give rare classes larger weights"),
            argument("--dtype", help="dtype policy, such as mixed_bfloat16"),
            argument("--validate-every", type=int, default=1, help="epochs between validations"),
            argument("--seed", type=int, default=0, help="seed of the order and the crops"),
        ],
    ),
    "segment": (
        segment,
        "find the class of every pixel of photographs",
        [
            argument("photo", nargs="+", help="image files"),
            argument("--model", required=True, help=MODEL),
            argument("--out", default=".", help="directory for the label maps and overlays"),
        ],
    ),
    "evaluate": (
        evaluate,
        "print the IoU of each class on images and masks",
        [*DATA, argument("--model", required=True, help=MODEL)],
    ),
    "convert": (
        convert,
        "convert a checkpoint of mmsegmentation, PyTorch-Encoding or timm",
        [
            argument("input", help=".pth, .zip or .safetensors file"),
            argument("output", help="directory for the model"),
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
        export,
        "write a file for servers and phones",
        [
            argument("model", help=MODEL),
            argument("path", help="path of the file, or of the SavedModel's directory"),
            argument(
                "--format", default="tf_saved_model", help="tf_saved_model, onnx, litert or openvino"
            ),
            argument(
                "--outputs",
                nargs="+",
                default=("labels", "presence"),
                help="any of labels, presence, logits and probabilities",
            ),
            argument(
                "--image-size", type=int, nargs=2, metavar=("H", "W"), help="accept this size only"
            ),
            argument("--batch-size", type=int, help="accept this many images per batch only"),
            argument("--dtype", default="float32", help="float32, or float16 for half the file size"),
            argument("--quantize", help="int8, for onnx and litert"),
            argument("--calibration", help="folder of images to calibrate the quantization"),
            argument("--version", type=int, help="write a SavedModel to PATH/VERSION"),
            argument("--verify", action="store_true", help="compare the file with the model"),
        ],
    ),
    "presets": (presets, "list the published models", []),
}


def _parser():
    parser = argparse.ArgumentParser(
        prog="keras-encnet",
        description="EncNet for Keras 3: train, segment, evaluate and export.",
        epilog="keras-encnet COMMAND --help shows the arguments of a command.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (run, help, arguments) in COMMANDS.items():
        command = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
        command.set_defaults(run=run)
        for names, options in arguments:
            command.add_argument(*names, **options)
    return parser


if __name__ == "__main__":
    sys.exit(main())

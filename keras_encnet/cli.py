"""The command line: `keras-encnet demo | train | segment | evaluate | convert | export | presets`."""

import argparse
import pathlib
import sys

MODEL = "a published model's name, a directory, or hf://user/repo"


def main(argv=None):
    """Runs one command; returns the process's exit status.

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
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return 130
    return 0


def demo(arguments):
    from keras_encnet.demo.demo import run

    run(arguments.out, seed=arguments.seed)


def train(arguments):
    import keras_encnet
    from keras_encnet.inference import evaluate

    out = pathlib.Path(arguments.out)
    pairs, validation = _pairs(arguments)
    num_classes = arguments.num_classes or (pairs.labels and len(pairs.labels))
    if not num_classes:
        raise ValueError("How many classes are there? Give --labels or --num-classes.")
    data = keras_encnet.data.batches(
        pairs,
        size=arguments.size,
        batch_size=arguments.batch_size,
        augment=True,
        seed=arguments.seed,
    )
    steps = arguments.epochs * data.steps_per_epoch

    def make_model():
        if arguments.preset:
            model = keras_encnet.EncNet.from_preset(
                arguments.preset,
                num_classes=num_classes,
                labels=pairs.labels,
                dtype=arguments.dtype,
            )
        else:
            model = keras_encnet.EncNet(
                arguments.backbone,
                num_classes,
                labels=pairs.labels,
                palette=pairs.palette,
                width=arguments.width,
                head_channels=arguments.head_channels,
                laterals=arguments.laterals,
                dtype=arguments.dtype,
            )
        weights = None
        if arguments.balance:
            weights = keras_encnet.training.class_weights(pairs, num_classes).tolist()
        model.compile(_optimizer(arguments, steps), class_weight=weights)
        return model

    settings = {
        name: value
        for name, value in vars(arguments).items()
        if name not in ("run", "command", "out", "val_images", "val_masks", "validate_every")
    }
    # Data that is wrong is found before anything is written.
    keras_encnet.data.check_masks(pairs, num_classes)
    model = keras_encnet.training.train(
        make_model,
        data,
        directory=out / "training",
        epochs=arguments.epochs,
        settings=settings,
        validation_data=validation
        and keras_encnet.data.batches(validation, size=None, batch_size=arguments.batch_size),
        validation_freq=arguments.validate_every,
    )
    model.save_to_preset(out / "model")
    print(f"\nThe model is in {out / 'model'}.")
    if validation:
        print(evaluate(model, validation))


def segment(arguments):
    import keras_encnet

    _keep_compiled_graphs()
    model = keras_encnet.EncNet.from_preset(arguments.model)
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
    import keras_encnet
    from keras_encnet.inference import evaluate

    _keep_compiled_graphs()
    model = keras_encnet.EncNet.from_preset(arguments.model)
    pairs, _ = _pairs(arguments)
    keras_encnet.data.check_masks(pairs, model.num_classes, model.ignore_index, training=False)
    print(evaluate(model, pairs))


def convert(arguments):
    from keras_encnet import EncNet, convert
    from keras_encnet.presets import save_preset

    checkpoint = convert.read_checkpoint(arguments.input)
    if convert.is_backbone(checkpoint):
        model = convert.backbone_from_checkpoint(checkpoint)
        use = f"EncNet({model.name!r}, num_classes, backbone_weights={arguments.output!r})"
    else:
        model = convert.encnet_from_checkpoint(
            EncNet,
            checkpoint,
            align_corners=arguments.align_corners,
            labels=arguments.labels and arguments.labels.split(","),
        )
        use = f"EncNet.from_preset({arguments.output!r})"
    save_preset(model, arguments.output, arguments.dtype)
    print(f"{model.count_params():,} parameters. Use them with {use}")


def export(arguments):
    import keras_encnet
    from keras_encnet.export import verify

    model = keras_encnet.EncNet.from_preset(arguments.model)
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
    import keras_encnet

    print(keras_encnet.list_presets())


def _pairs(arguments):
    from keras_encnet import data

    if arguments.camvid:
        directory = pathlib.Path(arguments.camvid)
        if arguments.command == "evaluate":
            return data.camvid(directory, "val"), None
        return data.camvid(directory, "train"), data.camvid(directory, "val")
    if not (arguments.images and arguments.masks):
        raise ValueError("Give --images and --masks, two folders or patterns such as 'images/*.jpg'.")
    options = {
        "labels": arguments.labels.split(",") if arguments.labels else None,
        "label_map": dict(arguments.label_map) or None,
    }
    pairs = data.folder(arguments.images, arguments.masks, **options)
    if arguments.command == "train" and arguments.val_images:
        return pairs, data.folder(arguments.val_images, arguments.val_masks, **options)
    return pairs, None


def _optimizer(arguments, steps):
    import keras

    from keras_encnet import training

    if arguments.optimizer == "sgd":
        rate = training.PolynomialDecay(arguments.learning_rate or 0.01, steps=steps)
        return training.SGD(rate)
    # A network from scratch has small steps to begin with; AdamW's rate ends at zero.
    rate = training.PolynomialDecay(
        arguments.learning_rate or 1e-3, steps=steps, end=0.0, warmup=min(100, steps // 20)
    )
    return keras.optimizers.AdamW(rate, weight_decay=0.01)


def _keep_compiled_graphs():
    """JAX compiles once for each image size: the next run finds what this one compiled."""
    import keras

    if keras.backend.backend() == "jax":
        import jax

        if jax.config.jax_compilation_cache_dir is None:
            from keras_encnet.presets.cache import cache_directory

            jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "jax"))


def _parser():
    parser = argparse.ArgumentParser(
        prog="keras-encnet", description="EncNet for Keras 3: train, segment, look."
    )
    commands = parser.add_subparsers(dest="command", required=True)

    def command(run, help):
        sub = commands.add_parser(
            run.__name__, help=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        sub.set_defaults(run=run)
        return sub

    sub = command(demo, "the whole job once through, on street scenes that it draws itself")
    sub.add_argument("--out", default="encnet-demo", help="where pictures and model go")
    sub.add_argument("--seed", type=int, default=0)

    sub = command(train, "trains on images and masks; run again, it goes on where it stopped")
    _add_data(sub)
    sub.add_argument("--val-images", help="images to validate on")
    sub.add_argument("--val-masks", help="their masks")
    sub.add_argument("--out", required=True, help="directory for the model and the training's state")
    sub.add_argument("--num-classes", type=int, help="where there are no --labels")
    sub.add_argument("--preset", help=f"start from {MODEL}, instead of a new one")
    sub.add_argument("--backbone", default="resnet50")
    sub.add_argument("--width", type=float, default=1.0, help="factor on the backbone's channels")
    sub.add_argument("--head-channels", type=int, default=512)
    sub.add_argument("--laterals", action="store_true", help="fuse shallower features into the head")
    sub.add_argument("--epochs", type=int, default=40)
    sub.add_argument("--batch-size", type=int, default=8)
    sub.add_argument(
        "--size", type=int, nargs=2, default=(512, 512), metavar=("H", "W"), help="of the crops"
    )
    sub.add_argument("--optimizer", choices=("sgd", "adamw"), default="sgd")
    sub.add_argument("--learning-rate", type=float, help="0.01 for sgd, 0.001 for adamw")
    sub.add_argument("--balance", action="store_true", help="weigh rare classes more")
    sub.add_argument("--dtype", help="dtype policy, mixed_bfloat16 for instance")
    sub.add_argument("--validate-every", type=int, default=1, help="epochs between validations")
    sub.add_argument("--seed", type=int, default=0)

    sub = command(segment, "finds the class of every pixel of photographs")
    sub.add_argument("photo", nargs="+")
    sub.add_argument("--model", required=True, help=MODEL)
    sub.add_argument("--out", default=".", help="directory for the label maps and overlays")

    sub = command(evaluate, "IoU of each class on images and masks")
    _add_data(sub)
    sub.add_argument("--model", required=True, help=MODEL)

    sub = command(convert, "brings over a checkpoint of mmsegmentation, PyTorch-Encoding or timm")
    sub.add_argument("input", help=".pth, .zip or .safetensors")
    sub.add_argument("output", help="directory of the model to be made")
    sub.add_argument("--labels", help="names of the classes, with commas between them")
    sub.add_argument(
        "--align-corners",
        action=argparse.BooleanOptionalAction,
        help="corner rule of resizing; default: as the file says",
    )
    sub.add_argument("--dtype", choices=("float32", "float16"), help="of the stored kernels")

    sub = command(export, "writes a file for servers and phones")
    sub.add_argument("model", help=MODEL)
    sub.add_argument("path", help="of the file, or of the SavedModel's directory")
    sub.add_argument("--format", default="tf_saved_model", help="or onnx, litert, openvino")
    sub.add_argument(
        "--outputs",
        nargs="+",
        default=("labels", "presence"),
        help="of labels, presence, logits and probabilities",
    )
    sub.add_argument("--image-size", type=int, nargs=2, metavar=("H", "W"), help="take no other")
    sub.add_argument("--batch-size", type=int, help="take as many images at a time, always")
    sub.add_argument("--dtype", default="float32", help="float16 halves the file")
    sub.add_argument("--quantize", help="int8, for onnx and litert")
    sub.add_argument("--calibration", help="folder of images for the quantizer")
    sub.add_argument("--version", type=int, help="of a SavedModel, below PATH")
    sub.add_argument("--verify", action="store_true", help="run both, and compare")

    command(presets, "the published models")
    return parser


def _add_data(sub):
    sub.add_argument("--images", help="folder or pattern, 'images/*.jpg'")
    sub.add_argument("--masks", help="folder or pattern, 'masks/*.png'")
    sub.add_argument("--camvid", help="directory of CamVid, instead of --images and --masks")
    sub.add_argument("--labels", help="names of the classes, with commas between them")
    sub.add_argument(
        "--label-map",
        type=_rename,
        nargs="*",
        default=[],
        metavar="FROM:TO",
        help="values in the masks to rename, 255:1 for instance",
    )


def _rename(text):
    old, _, new = text.partition(":")
    return int(old), int(new)


if __name__ == "__main__":
    sys.exit(main())

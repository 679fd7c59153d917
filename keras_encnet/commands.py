"""What the commands of the command line do: one function for each, of its parsed arguments.

`cli.py` has the arguments and checks them. It imports this module, and Keras with it, only when a
command runs.
"""

import os
import pathlib

import keras

from keras_encnet import data, training
from keras_encnet.convert import backbone_from_checkpoint, is_backbone, read_checkpoint
from keras_encnet.data.conventions import ignore_index_for
from keras_encnet.data.folders import image_paths
from keras_encnet.demo.demo import run as run_demo
from keras_encnet.export import verify
from keras_encnet.files import replacing
from keras_encnet.inference import evaluate as evaluate_model
from keras_encnet.models.encnet import EncNet
from keras_encnet.presets import list_presets, save_preset
from keras_encnet.presets.cache import cache_directory

# Arguments of `train` that may differ when it resumes. Data is compared by what it holds.
FREE = ("out", "epochs", "images", "masks", "camvid", "val_images", "val_masks", "validate_every")

RESULTS = "_labels.png", "_overlay.png"  # what `segment` writes for each photograph


def demo(arguments):
    run_demo(arguments.out, seed=arguments.seed)


def train(arguments):
    out = pathlib.Path(arguments.out)
    validation, pairs = _validation_pairs(arguments), _pairs(arguments, "train")
    num_classes = arguments.num_classes or (pairs.labels and len(pairs.labels))
    batches = data.batches(
        pairs,
        size=arguments.size,
        batch_size=arguments.batch_size,
        augment=True,
        seed=arguments.seed,
    )
    settings = {name: value for name, value in vars(arguments).items() if name not in FREE}
    model = training.train(
        lambda: _compiled_model(
            arguments, pairs, num_classes, steps=arguments.epochs * batches.steps_per_epoch
        ),
        batches,
        directory=out / "training",
        epochs=arguments.epochs,
        settings={**settings, "labels": pairs.labels, "num_classes": num_classes},
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
    photos, failures = _photos(arguments.photo)
    model = EncNet.from_preset(arguments.model)
    out = pathlib.Path(arguments.out)
    for photo, name in zip(photos, result_names(photos), strict=True):
        try:
            result = model.segment(photo)
            label_map, overlay = (out / f"{name}{ending}" for ending in RESULTS)
            result.save(label_map)
            with replacing(overlay) as unfinished:
                result.overlay().save(unfinished)
        except (ValueError, OSError) as error:
            failures.append(error)
            continue
        print(f"{photo}: {label_map}, {overlay}")
        for label, area in result.areas().items():
            print(f"  {label:20} {100 * area:5.1f} %")
        if result.presence is not None:
            present = [f"{label} {value:.2f}" for label, value in result.present().items()]
            print(f"  in the scene, as the SE head estimates: {', '.join(present) or 'nothing'}")
    if failures:
        listed = "\n".join(f"  {error}" for error in failures)
        raise ValueError(f"{len(failures)} of the inputs failed:\n{listed}")


def evaluate(arguments):
    _cache_jax_compilations()
    model = EncNet.from_preset(arguments.model)
    pairs = _pairs(arguments, "val")
    if pairs.labels and model.labels and pairs.labels != model.labels:
        raise ValueError(
            "The class names of the data must be those of the model, in the same order. Received: "
            f"{', '.join(pairs.labels)} in the data, {', '.join(model.labels)} in the model."
        )
    data.check_masks(pairs, model.num_classes, model.ignore_index, training=False)
    print(evaluate_model(model, pairs))


def convert(arguments):
    checkpoint = read_checkpoint(arguments.input)
    if is_backbone(checkpoint):
        if arguments.labels or arguments.align_corners is not None:
            raise ValueError(
                f"{arguments.input} holds only a backbone, which has no classes and no corner rule. "
                "Leave --labels and --align-corners out."
            )
        model = backbone_from_checkpoint(checkpoint)
        use = (
            f"keras-encnet train --backbone {model.name} --backbone-weights {arguments.output}, or in "
            f"Python EncNet({model.name!r}, num_classes, backbone_weights={arguments.output!r})"
        )
    else:
        model = EncNet.from_pytorch(
            arguments.input, align_corners=arguments.align_corners, labels=arguments.labels
        )
        use = (
            f"keras-encnet segment PHOTO --model {arguments.output}, or in Python "
            f"EncNet.from_preset({arguments.output!r})"
        )
    save_preset(model, arguments.output, arguments.dtype)
    print(f"{model.count_params():,} parameters. Use them: {use}")


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


# === Data ===


def _pairs(arguments, split):
    """The pairs of `--images` and `--masks`, or one split of `--camvid`."""
    if arguments.camvid:
        return data.camvid(arguments.camvid, split)
    return _folder(arguments, arguments.images, arguments.masks)


def _validation_pairs(arguments):
    if arguments.camvid:
        return data.camvid(arguments.camvid, "val")
    if not arguments.val_images:
        return None
    try:
        return _folder(arguments, arguments.val_images, arguments.val_masks)
    except (ValueError, OSError) as error:
        text = str(error).replace("`images`", "`val_images`").replace("`masks`", "`val_masks`")
        raise type(error)(text) from error


def _folder(arguments, images, masks):
    label_map = dict(arguments.label_map) or None
    return data.folder(images, masks, labels=arguments.labels, label_map=label_map)


def _photos(sources):
    """The image files that files, folders and globs name, each once, and the errors of those that name
    none. In folders, earlier results are left out."""
    photos, failures = {}, []
    for source in sources:
        try:
            paths = image_paths(source)
        except OSError as error:
            failures.append(error)
            continue
        if os.path.isdir(source):
            paths = [path for path in paths if not path.name.endswith(RESULTS)]
            if not paths:
                failures.append(ValueError(f"{source} has no images but results of this command."))
        photos |= {path.resolve(): path for path in paths}
    return list(photos.values()), failures


def result_names(photos):
    """A different name for the results of each photograph: its own, or with its directory if another
    has the same, or with its ending too.

    >>> result_names([pathlib.Path("a/1.jpg"), pathlib.Path("b/2.jpg")])
    ['1', '2']
    >>> result_names([pathlib.Path("a/1.jpg"), pathlib.Path("b/1.jpg")])
    ['a/1', 'b/1']
    >>> result_names([pathlib.Path("a/1.jpg"), pathlib.Path("a/1.png")])
    ['1.jpg', '1.png']
    """
    paths = [path.resolve() for path in photos]
    names = [path.stem for path in paths]
    if len(set(names)) < len(paths):
        common = os.path.commonpath([path.parent for path in paths])
        paths = [path.relative_to(common) for path in paths]
        names = [path.with_suffix("").as_posix() for path in paths]
    return names if len(set(names)) == len(paths) else [path.as_posix() for path in paths]


# === Models ===


def _compiled_model(arguments, pairs, num_classes, steps):
    # The new weights, and where dropout begins.
    keras.utils.set_random_seed(arguments.seed)
    if arguments.preset:
        model = EncNet.from_preset(
            arguments.preset, num_classes=num_classes, labels=pairs.labels, dtype=arguments.dtype
        )
    else:
        model = EncNet(
            arguments.backbone or "resnet50",
            num_classes,
            labels=pairs.labels,
            palette=pairs.palette,
            ignore_index=ignore_index_for(num_classes),
            width=arguments.width or 1.0,
            head_channels=arguments.head_channels or 512,
            laterals=arguments.laterals,
            backbone_weights=arguments.backbone_weights,
            dtype=arguments.dtype,
        )
    weights = training.class_weights(pairs, num_classes).tolist() if arguments.balance else None
    model.compile(_optimizer(arguments, steps), class_weight=weights)
    return model


def _optimizer(arguments, steps):
    trained = arguments.preset or arguments.backbone_weights
    if (arguments.optimizer or ("sgd" if trained else "adamw")) == "sgd":
        initial = arguments.learning_rate or 0.01
        return training.SGD(training.PolynomialDecay(initial, steps=steps, end=min(1e-4, initial)))
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

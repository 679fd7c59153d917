"""Checks of several arguments of a command at once. They import nothing heavy."""

import os

from keras_encnet.cli_types import TFDS

# What a new network consists of, and `--preset` has already.
NETWORK = ("--backbone", "--backbone-weights", "--width", "--head-channels", "--laterals")
FILES = ("--images", "--masks", "--annotations", "--val-images", "--val-masks", "--val-annotations")
FEATURES = ("--image-feature", "--mask-feature")


def check_train(arguments, error):
    given = _given(arguments)
    if arguments.recipe and not given & {"--dataset", "--camvid", *FILES}:
        if not arguments.root:
            error("--recipe needs --root, the directory of its data set, or data of your own.")
        _check_root(arguments, error)
        _check_validation(given, error)
    else:
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
        _refuse_together(given, "--preset", NETWORK, error)
    if arguments.epochs and arguments.steps:
        error("--epochs and --steps are two ways to give the length. Leave one of them out.")
    batch_size = arguments.batch_size
    if arguments.accumulate and batch_size and batch_size % arguments.accumulate:
        error(f"--accumulate must divide --batch-size, {batch_size}. Received: {arguments.accumulate}")
    names = [name for name, _ in arguments.loss]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        error(f"--loss must have each loss once. Received: {', '.join(twice)} twice.")
    validates = given & {"--val-images", "--val-split", "--val-share"}
    if arguments.early_stopping and arguments.images and not validates:
        error("--early-stopping needs validation: --val-share 0.2, or --val-images and --val-masks.")


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
    _check_validation(given, error)
    _check_classes(arguments, error)


def check_export(arguments, error):
    if arguments.quantize and not arguments.calibration:
        error("--quantize needs --calibration, a folder of images of the kind that the model will see.")
    if arguments.calibration and not arguments.quantize:
        error("--calibration is only of use with --quantize int8.")
    if arguments.version is not None and arguments.format != "tf_saved_model":
        error(f"--version is only for --format tf_saved_model. Received: --format {arguments.format}.")


def no_check(arguments, error):
    pass


def _check_dataset(arguments, given, error):
    option = "--camvid" if arguments.camvid else "--dataset"
    is_tfds = arguments.dataset.startswith(TFDS)
    others = (*FILES, "--palette")
    if not is_tfds:
        others += ("--label-map", "--num-classes")
    if not is_tfds and arguments.dataset != "labelme":
        others += ("--labels",)
    _refuse_together(given, option, others, error)
    if is_tfds:
        if len(given & {*FEATURES}) == 1:
            error("--image-feature and --mask-feature must be given together.")
        return
    _refuse_useless(given, FEATURES, f"--dataset {TFDS}NAME", error)
    if not arguments.root:
        error(f"--dataset {arguments.dataset} needs --root, the directory of the data set.")
    _check_root(arguments, error)


def _check_root(arguments, error):
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
    _refuse_useless(given, ("--root", "--split", "--val-split"), "--dataset", error)
    _refuse_useless(given, FEATURES, f"--dataset {TFDS}NAME", error)
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
        others = (f"{prefix}masks", "--label-map", "--palette", "--num-classes")
        _refuse_together(given, annotations, others, error)


def _check_validation(given, error):
    if "--val-share" in given:
        others = ("--val-images", "--val-masks", "--val-annotations", "--val-split")
        _refuse_together(given, "--val-share", others, error)


def _check_classes(arguments, error):
    """Checks names, colours and mask values."""
    labels, palette = arguments.labels, arguments.palette
    table = (arguments.annotations or "").lower().endswith(".csv")
    if isinstance(labels, dict) and not table:
        listed = ",".join(labels.values())
        error(
            "--labels must be names alone, unless --annotations is a CSV file. Received: values too. "
            f"Give --labels {listed} in the order of the mask values, and --label-map if these do not "
            "begin at 0."
        )
    if labels and palette and len(labels) != len(palette):
        error(
            f"--palette must have a colour for each of the {len(labels)} --labels. Received: "
            f"{len(palette)} colours. Other colours can be renamed: --label-map 0,0,0:255."
        )
    froms = [old for old, _ in arguments.label_map]
    twice = [str(old) for old in dict.fromkeys(froms) if froms.count(old) > 1]
    if twice:
        error(f"--label-map must rename each value once. Received: {', '.join(twice)} twice.")
    if not palette and any(isinstance(old, tuple) for old in froms):
        error("--label-map renames colours only together with --palette, the colours of the classes.")


def _given(arguments):
    """The options that were given and have no default value."""
    return {f"--{name.replace('_', '-')}" for name, value in vars(arguments).items() if value}


def _refuse_together(given, option, others, error):
    clashing = [other for other in others if other in given]
    if clashing:
        error(f"{option} already says what {' and '.join(clashing)} would. Leave one of them out.")


def _refuse_useless(given, options, where, error):
    useless = [option for option in options if option in given]
    if useless:
        error(f"{useless[0]} is only of use with {where}.")

"""Arguments that several commands have. It imports nothing heavy."""

from keras_encnet.cli_types import (
    DATASETS,
    EXPORTS,
    MIN_SIDE,
    TFDS,
    class_names,
    colour,
    dataset,
    integer,
    named_classes,
    positive,
    share,
    value_pair,
)

PROTOCOLS = ("mmsegmentation", "mmsegmentation-0.x", "pytorch-encoding")


def argument(*names, help, **options):
    """The arguments of `add_argument`; a default that says something is added to the help text.

    >>> argument("--limit", default=3, help="images")
    (('--limit',), {'help': 'images (default: 3)', 'default': 3})
    """
    default = options.get("default")
    if default not in (None, []):
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        help = f"{help} (default: {shown})"
    return names, {"help": help, **options}


def group(title, arguments):
    """The same arguments, which the help lists under a title."""
    return [(names, {**options, "group": title}) for names, options in arguments]


MODEL = "name of a published model, a directory, or hf://user/repo"
LABELS = argument("--labels", type=class_names, help="class names, separated by commas")
SEED = integer(0, 2**32 - 1)
SIDES = {"type": integer(MIN_SIDE), "nargs": 2, "metavar": ("H", "W")}
DATA = [
    argument("--images", help="folder, or pattern such as 'images/*.jpg'"),
    argument("--masks", help="folder, or pattern such as 'masks/*.png'"),
    argument(
        "--annotations",
        metavar="FILE",
        help="instead of --masks: a JSON file in COCO's format, or a CSV file of run-length codes",
    ),
    argument(
        "--dataset",
        type=dataset,
        metavar="NAME",
        help=f"instead of --images: a data set, {', '.join(DATASETS)}; the export of an annotation "
        f"tool, {', '.join(EXPORTS)}; or {TFDS}NAME. Hugging Face's data sets are for Python alone; "
        "ADE20K's test images, which have no masks, are --images",
    ),
    argument("--root", metavar="DIR", help="directory of --dataset"),
    argument("--camvid", metavar="DIR", help="the same as --dataset camvid --root"),
    argument(
        "--labels",
        type=named_classes,
        help="class names, separated by commas; for a CSV file also with the classes in it, "
        "1:scratch,2:dent",
    ),
    argument(
        "--palette",
        type=colour,
        action="extend",
        nargs="+",
        default=[],
        metavar="COLOUR",
        help="for masks of colours: the colour of each class in the order of --labels, such as "
        "128,64,128 or #804080",
    ),
    argument(
        "--label-map",
        type=value_pair,
        action="extend",
        nargs="+",
        default=[],
        metavar="FROM:TO",
        help="mask values to rename, such as 255:1; with --palette also colours, 0,0,0:255",
    ),
    argument(
        "--image-feature", metavar="NAME", help=f"feature of the image, for an unusual {TFDS}NAME"
    ),
    argument("--mask-feature", metavar="NAME", help="feature of its mask"),
]
SPLIT = "of --dataset"
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

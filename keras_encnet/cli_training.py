"""The arguments of `train`. It imports nothing heavy."""

from keras_encnet.cli_options import (
    DATA,
    MODEL,
    SEED,
    SIDES,
    SPLIT,
    VALIDATION,
    argument,
    group,
)
from keras_encnet.cli_types import (
    LOSSES,
    MIN_SIDE,
    STAGES,
    directory,
    integer,
    positive,
    probability,
    setting,
    weighted_loss,
)

TRAINING_SPLIT = argument(
    "--split", help=f"split {SPLIT} to train on; default: train, and all of an annotation tool's export"
)
NETWORK = [
    argument("--preset", help=f"model to start from: {MODEL}"),
    argument("--num-classes", type=integer(1), help="number of classes, without --labels"),
    argument("--backbone", help="backbone of a new model; default: resnet50"),
    argument(
        "--backbone-weights",
        help="'imagenet' (downloaded), a checkpoint, or 'none'; default: none, which needs far more "
        "images and epochs",
    ),
    argument("--width", type=positive, help="factor on the backbone's channels; default: 1"),
    argument("--head-channels", type=integer(1), help="channels of the head; default: 512"),
    argument(
        "--laterals", action="store_true", default=None, help="feed shallower features to the head too"
    ),
    argument(
        "--freeze",
        choices=("backbone", *STAGES),
        help="keep the backbone as it is, batch norms included, or its layers up to this stage",
    ),
    argument("--dtype", help="dtype policy, such as mixed_bfloat16"),
]
BATCHES = [
    argument("--batch-size", type=integer(1), help="images for each update of the weights; default: 8"),
    argument("--size", **SIDES, help="size of the crops; default: 512 512"),
    argument(
        "--resize",
        type=integer(MIN_SIDE),
        nargs=2,
        metavar=("LONG", "SHORT"),
        help="sides to fit images into, before --scale; default: their own size",
    ),
    argument(
        "--scale",
        type=positive,
        nargs=2,
        metavar=("MIN", "MAX"),
        help="range of the random factor on an image's size; default: 0.5 2",
    ),
    argument("--flip", type=probability, help="probability of the mirror image; default: 0.5"),
    argument(
        "--no-photometric",
        dest="photometric",
        action="store_false",
        default=None,
        help="leave colours as they are",
    ),
]
STEPS = [
    argument(
        "--epochs",
        type=integer(1),
        help="epochs in total; a larger number extends an earlier run; default: 40",
    ),
    argument("--steps", type=integer(1), help="instead of --epochs: updates of the weights in total"),
    argument(
        "--optimizer",
        choices=("sgd", "adamw"),
        help="default: sgd, as in mmsegmentation, with --preset or --backbone-weights; adamw without, "
        "because sgd trains random weights slowly",
    ),
    argument(
        "--learning-rate", type=positive, help="the largest one; default: 0.01 for sgd, 0.001 for adamw"
    ),
    argument(
        "--lr-schedule",
        choices=("polynomial", "cosine", "constant"),
        help="how the learning rate falls until the last step; default: polynomial",
    ),
    argument(
        "--loss",
        type=weighted_loss,
        nargs="+",
        default=[],
        metavar="NAME[:WEIGHT]",
        help=f"the loss, or several and their weights: {', '.join(LOSSES)}; default: cross_entropy",
    ),
    argument("--balance", action="store_true", help="give rare classes larger weights"),
    argument(
        "--accumulate",
        type=integer(1),
        metavar="N",
        help="see the images of an update in N parts, which takes less memory",
    ),
    argument(
        "--ema",
        type=probability,
        nargs="?",
        const=0.99,
        metavar="MOMENTUM",
        help="average the weights over the steps; 0.99 without a number",
    ),
    argument("--clip", type=positive, metavar="NORM", help="greatest norm of all gradients together"),
]
RUN = [
    argument(
        "--out", type=directory, required=True, help="directory for the model and the training state"
    ),
    argument(
        "--validate-every",
        type=integer(1),
        metavar="N",
        help="epochs from one validation to the next, or with --steps the steps; default: 1, and a "
        "tenth of the steps",
    ),
    argument(
        "--early-stopping",
        type=integer(1),
        metavar="N",
        help="stop after N validations without a better mean IoU",
    ),
    argument(
        "--pictures",
        type=integer(0, 16),
        metavar="N",
        default=4,
        help="images to show in OUT/pictures after each validation",
    ),
    argument(
        "--tensorboard", action="store_true", help="write logs for TensorBoard to OUT/tensorboard"
    ),
    argument("--seed", type=SEED, help="seed of weights, order, crops and dropout; default: 0"),
]
TRAINING = [
    *group("Data", [*DATA, TRAINING_SPLIT, *VALIDATION]),
    *group(
        "Recipe",
        [
            argument(
                "--recipe",
                metavar="NAME",
                help="train as a published model was trained, ade20k_r50 for instance: its data set "
                "(with --root), network and training. Other options change parts of it; the defaults "
                "that they mention are those without a recipe",
            ),
            argument(
                "--set",
                type=setting,
                nargs="+",
                action="extend",
                default=[],
                metavar="NAME=VALUE",
                help="other parts of the recipe, a field of keras_encnet.training.Recipe such as "
                "weight_decay=1e-4 or head_factor=10",
            ),
        ],
    ),
    *group("Network", NETWORK),
    *group("Batches", BATCHES),
    *group("Optimization", STEPS),
    *group("Run", RUN),
]

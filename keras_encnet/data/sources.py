"""Pairs from TensorFlow Datasets and from Hugging Face's `datasets`.

Both libraries are asked for the bytes of files, not for pixels: their own decoders may turn palette
masks into colours.
"""

import difflib
import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from keras_encnet.data.conventions import IGNORE_INDEX
from keras_encnet.data.dataset_table import list_datasets
from keras_encnet.data.encoded_pairs import EncodedPairs, PanopticPairs
from keras_encnet.data.pairs import Pairs

FILE_FORMAT = "array_record"
MOST_NAMES = 5  # similar ones in a message


class _Builder(NamedTuple):
    """What the features of a builder of TensorFlow Datasets mean.

    - `image`, `mask`, `name`: features with the image, its mask and its file name.
    - `segments`: the feature with `id` and `label` of each segment, as `PanopticPairs` reads it.
    - `dataset`: a row of `datasets.json` with `labels`, `label_map` and palette; otherwise given here.
    """

    image: str
    mask: str
    name: str | None = None
    segments: str | None = None
    dataset: str | None = None
    labels: tuple[str, ...] | None = None
    label_map: dict[int, int] | None = None


BUILDERS = {
    "oxford_iiit_pet": _Builder(
        "image",
        "segmentation_mask",
        "file_name",
        labels=("pet", "background"),
        label_map={1: 0, 2: 1, 3: IGNORE_INDEX},
    ),
    "cityscapes/semantic_segmentation": _Builder(
        "image_left", "segmentation_label", "image_id", dataset="Cityscapes"
    ),
    "coco/2017_panoptic": _Builder(
        "image", "panoptic_image", "image/filename", segments="panoptic_objects"
    ),
}


def tfds(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike | None = None,
    image: str | None = None,
    mask: str | None = None,
    labels: Sequence[str] | None = None,
    label_map: Mapping[int, int] | None = None,
    download: bool = False,
) -> Pairs:
    """Pairs from TensorFlow Datasets, read from ArrayRecord files in any order.

    `"oxford_iiit_pet"` (pet, background; the border is ignored), `"cityscapes/semantic_segmentation"`
    (19 classes) and `"coco/2017_panoptic"` (133 classes, what no segment covers is ignored) are
    known. For any other builder name the features with the image and the mask.

    Args:
        name: `"name"`, `"name/config"` or `"name/config:version"`.
        split: the name of a split, or a part of it, `"train[:80%]"`.
        data_dir: where data sets are prepared. Default: `~/tensorflow_datasets`.
        image, mask: names of the features with the image and the mask.
        labels: class names. Default: those of the mask, if it is a `LabeledImage`.
        label_map: dict that maps mask values to labels, as in `folder`.
        download: whether to download and prepare the data if they are not in `data_dir`.

    Returns:
        `Pairs`.

    Raises:
        ImportError: if a package is missing. The message has the command that installs it. TensorFlow
            is needed by some builders to prepare data, and not to read them.
        FileNotFoundError: if the data are not prepared.
        ValueError: if there is no such data set, split or feature; or the data are prepared as TFRecord
            files, which cannot be read in any order.

    >>> tfds("scene_parse150", "train")
    Traceback (most recent call last):
    ...
    ValueError: `name` must be a data set whose masks hold classes. Received: 'scene_parse150', ...
    """
    if re.split("[/:]", name)[0] == "scene_parse150":
        raise ValueError(
            "`name` must be a data set whose masks hold classes. Received: 'scene_parse150', whose "
            "masks are the instances of ADE20K: 100 categories of objects in red, not the 150 classes. "
            "Load ADEChallengeData2016 by keras_encnet.data.ade20k(root, split)."
        )
    library = _tensorflow_datasets()
    builder = _prepared_builder(library, name, data_dir, download)
    features = builder.info.features
    images = [each for each in features if isinstance(features[each], library.features.Image)]
    meaning = _meaning(builder, images, image, mask)
    _check_split(split, builder.info.splits, name)
    records = builder.as_data_source(
        split, decoders={each: library.decode.SkipDecoding() for each in images}
    )
    dataset = list_datasets()[meaning.dataset] if meaning.dataset else None
    known = dataset or meaning
    arguments = (records, meaning.image, meaning.mask, f"{name}, {split}: example")
    options = dict(
        name=meaning.name,
        labels=labels or known.labels or _class_names(features, meaning),
        label_map=known.label_map if label_map is None else label_map,
        palette=dataset.palette if dataset and not labels else None,
    )
    if meaning.segments:
        return PanopticPairs(*arguments, segments=meaning.segments, **options)
    return EncodedPairs(*arguments, **options)


def hf(
    dataset: Any,
    image: str = "image",
    mask: str = "annotation",
    *,
    labels: Sequence[str] | None = None,
    label_map: Mapping[int, int] | None = None,
) -> Pairs:
    """Pairs from a data set that you loaded with Hugging Face's `datasets`.

    Args:
        dataset: one split, `datasets.load_dataset("user/name", split="train")`.
        image: the column with the images, of type `datasets.Image`.
        mask: the column with the masks, of type `datasets.Image`, or arrays of mask values.
        labels: class names, or a `datasets.ClassLabel` that has them. Default: the names that the type
            of `mask` has, as `List(List(ClassLabel(names=...)))` does.
        label_map: dict that maps mask values to labels, as in `folder`.

    Returns:
        `Pairs`. Each image is decoded when its pair is read.

    Raises:
        ImportError: if `datasets` is not installed.
        ValueError: if `dataset` is not one split that can be read in any order, or has no such columns.

    An example, with a column of masks called "label":

        pairs = hf(datasets.load_dataset("user/name", split="train"), mask="label")
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError("`hf` needs the package `datasets`: pip install datasets") from error
    _check_is_split(dataset, datasets)
    features = dataset.features
    for argument, column in (("image", image), ("mask", mask)):
        images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
        if column not in features:
            raise ValueError(
                f"`{argument}` must be a column of the data set. Received: {column!r}. Its columns are "
                f"{_listed(features)}, and those of images {_listed(images) or 'none'}."
            )
        scalar = isinstance(features[column], (datasets.Value, datasets.ClassLabel))
        is_array = argument == "mask" and not scalar
        if column not in images and not is_array:
            raise ValueError(
                f"`{argument}` must be a column of images. Received: {column!r}, of type "
                f"{features[column]}. If it has the paths of files, pass "
                f"dataset.cast_column({column!r}, datasets.Image())."
            )
    dataset = dataset.with_format(None).select_columns([image, mask])
    for column in images:
        if column in (image, mask):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
    return EncodedPairs(
        dataset,
        image,
        mask,
        "row",
        labels=getattr(labels, "names", labels) or _names_in(features[mask]),
        label_map=label_map,
    )


def _tensorflow_datasets():
    for package in ("tensorflow_datasets", "array_record"):
        if importlib.util.find_spec(package) is None:
            raise ImportError(
                f"`tfds` needs the package {package}: pip install tensorflow-datasets array-record"
            )
    import tensorflow_datasets

    if not hasattr(tensorflow_datasets, "builder"):  # it only logs that its imports failed
        raise ImportError(
            "`tfds` needs packages that fit together. Received: tensorflow_datasets, whose own imports "
            "fail for the reason logged above. Often it is tensorflow_metadata, which is too new for "
            "the protobuf that TensorFlow needs: pip install 'tensorflow-metadata<1.18'"
        )
    return tensorflow_datasets


def _builder(library, name, data_dir):
    try:
        return library.builder(name, data_dir=data_dir)
    except library.core.registered.DatasetNotFoundError:
        known = library.list_builders(with_community_datasets=False)
        plain = re.split("[/:]", name)[0]
        alike = [each for each in known if plain in each] + difflib.get_close_matches(plain, known)
        listed = _listed(dict.fromkeys(alike[:MOST_NAMES]))
        received = f"{name!r}. Names like it: {listed or 'none; tfds.list_builders() has all'}."
    except (ValueError, AssertionError) as error:  # another config or version, or no name at all
        received = f"{name!r}. {str(error).strip().splitlines()[0]}"
    raise ValueError(
        "`name` must be a data set of TensorFlow Datasets, 'name', 'name/config' or "
        f"'name/config:version'. Received: {received}"
    )


def _prepared_builder(library, name, data_dir, download):
    builder = _builder(library, name, data_dir)
    if not builder.is_prepared():
        if not download:
            raise FileNotFoundError(
                f"{name} must be prepared. Received: {builder.data_dir!r}, which does not exist. Call "
                f"keras_encnet.data.tfds({name!r}, …, download=True) once, or give the `data_dir` in "
                "which it is prepared."
            )
        builder = library.builder(name, data_dir=data_dir, file_format=FILE_FORMAT)
        try:
            builder.download_and_prepare()
        except ImportError as error:  # some builders need TensorFlow, Apache Beam, …
            remedy = f"pip install {error.name}" if error.name else "install what the message asks for"
            raise ImportError(f"To prepare {name}, a package is missing ({error}): {remedy}") from error
    # A builder made from code does not see formats to which its files were converted later.
    builder = library.builder_from_directory(builder.data_dir)
    formats = [each.value for each in builder.info.available_file_formats()]
    if FILE_FORMAT not in formats:
        raise ValueError(
            f"{name} must be prepared as {FILE_FORMAT} files, which can be read in any order. "
            f"Received: {', '.join(formats)} files in {builder.data_dir}. Pass another `data_dir` with "
            "download=True. Or convert them by Apache Beam: pip install apache-beam, tfds "
            f"convert_format --dataset_version_dir={builder.data_dir} --out_file_format={FILE_FORMAT}"
        )
    return builder


def _meaning(builder, images, image, mask):
    """The row of `BUILDERS`, or one of the features given."""
    if image is None and mask is None:
        config = builder.builder_config and builder.builder_config.name
        for name in (f"{builder.name}/{config}", builder.name):
            if name in BUILDERS:
                return BUILDERS[name]
    for argument, feature in (("image", image), ("mask", mask)):
        if feature not in images:
            raise ValueError(
                f"`{argument}` must be a feature of {builder.name} with an image. Received: "
                f"{feature!r}. These are: {_listed(sorted(images))}."
            )
    return _Builder(image, mask)


def _check_split(split, splits, name):
    parts = re.split(r"\s*\+\s*", re.sub(r"\[[^]]*\]", "", split))
    if not {*splits, "all"}.issuperset(parts):
        raise ValueError(
            f"`split` must be one of {_listed(splits)} for {name}, or a part such as 'train[:80%]'. "
            f"Received: {split!r}"
        )


def _class_names(features, meaning):
    if meaning.segments:
        return features[meaning.segments]["label"].names
    return getattr(features[meaning.mask], "names", None) or None


def _check_is_split(dataset, library):
    if isinstance(dataset, library.Dataset):
        return
    if isinstance(dataset, dict):
        received = f"a dict of {_listed(dataset)}. Pass dataset[{next(iter(dataset), 'train')!r}]."
    elif isinstance(dataset, library.IterableDataset):
        received = "a stream. Load it without streaming=True."
    else:
        received = (
            f"{type(dataset).__name__}. Load one with datasets.load_dataset(name, split='train')."
        )
    raise ValueError(f"`dataset` must be one split, a datasets.Dataset. Received: {received}")


def _names_in(feature):
    """The class names of a type such as `List(List(ClassLabel))`, if it has any."""
    while feature is not None and not hasattr(feature, "names"):
        feature = feature[0] if isinstance(feature, list) else getattr(feature, "feature", None)
    return feature and feature.names


def _listed(names):
    return ", ".join(map(repr, names))

"""Annotations in COCO's JSON, as Roboflow, CVAT, Label Studio and others export them."""

import os
import re
import reprlib
from collections import Counter, defaultdict

import numpy as np

from keras_encnet.data.annotations.json_files import (
    entries,
    get,
    numbers,
    read_json,
    sentence,
)
from keras_encnet.data.annotations.painted import (
    PaintedPairs,
    largest_first,
    number_classes,
)
from keras_encnet.data.annotations.polygons import polygon_runs
from keras_encnet.data.annotations.rle import coco_runs
from keras_encnet.data.folders import first_few
from keras_encnet.data.image_files import orientation
from keras_encnet.data.nearby import images_elsewhere
from keras_encnet.data.pairs import Pairs

DEEPEST = 16  # directories in the name of an image


def coco(
    json: str | os.PathLike,
    images: str | os.PathLike | None = None,
    *,
    background: str | None = "background",
) -> Pairs:
    """Images with annotations in COCO's JSON, as masks of classes.

    It reads `_annotations.coco.json` of Roboflow, `instances_default.json` of CVAT, `result.json` of
    Label Studio, and COCO's own files. Masks are painted when they are read:

    - Polygons are rasterized exactly as pycocotools does. Run-length codes may be compressed or not.
    - Where annotations overlap, the smaller one is on top. Its size is the number of its pixels, and
      among equal ones the later one is on top.
    - `iscrowd`, and a category called "__ignore__", give 255, which is ignored (65535 with 256 classes
      or more).
    - Class 0 is the background, which nothing covers: images without annotations have it alone. The
      other classes follow in the order of their ids, which may have gaps. A category called
      "background" is class 0. The category 0 of Roboflow that only groups the others is left out.
    - Colours are those of the categories (`color`), if all have one.

    Args:
        json: the JSON file.
        images: the directory of the images. Default: that of the JSON file. Names in the JSON may have
            leading directories that this directory does not have.
        background: the name of class 0. `None` if the annotations leave no pixel uncovered: there is no
            such class then, and pixels that are uncovered all the same are ignored.

    Returns:
        `Pairs` with labels and palette.

    Raises:
        FileNotFoundError: if the JSON file or `images` does not exist.
        ValueError: if the file is not JSON, lacks a key, names an image that does not exist, or has an
            annotation of an unknown image or category, or without a segmentation. When a pair is read:
            if the sizes of an image in the JSON and in its file differ, or coordinates or counts are
            invalid. The message names the file and the annotation.

    >>> import json as json_module, tempfile
    >>> from PIL import Image
    >>> here = tempfile.mkdtemp()
    >>> Image.new("RGB", (48, 32)).save(f"{here}/a.jpg")
    >>> square = [[4, 2, 8, 2, 8, 6, 4, 6]]
    >>> data = {
    ...     "images": [{"id": 7, "file_name": "a.jpg", "height": 32, "width": 48}],
    ...     "categories": [{"id": 3, "name": "cat"}],
    ...     "annotations": [{"id": 1, "image_id": 7, "category_id": 3, "segmentation": square}],
    ... }
    >>> with open(f"{here}/result.json", "w") as file:
    ...     json_module.dump(data, file)
    >>> pairs = coco(f"{here}/result.json", here)
    >>> image, mask = pairs[0]
    >>> pairs.labels, mask[:3, 3:6].tolist()
    (('background', 'cat'), [[0, 0, 0], [0, 0, 0], [0, 1, 1]])
    """
    json = os.fspath(json)
    images = os.path.dirname(json) if images is None else os.fspath(images)
    data = read_json(json)
    where = f"the annotation file {json!r}"
    annotations = entries(data, "annotations", where)
    categories = _categories(entries(data, "categories", where), annotations, where)
    classes = number_classes([each["name"] for each in categories], background, where)
    by_image = _by_image(entries(data, "images", where), annotations, categories, where)
    return _Coco(json, images, by_image, classes, _palette(categories, classes))


class _Coco(PaintedPairs):
    def __init__(self, json, directory, by_image, classes, palette):
        found = _find_images(directory, [image for image, _ in by_image], json)
        super().__init__(found, directory, classes, palette)
        self._json, self._by_image = json, by_image

    def areas(self, i, height, width):
        image, annotations = self._by_image[i]
        self._check_size(i, image, height, width)
        areas = []
        for name, is_crowd, annotation in annotations:
            try:
                runs = _runs(annotation["segmentation"], height, width)
            except ValueError as error:
                raise ValueError(
                    f"Cannot read the annotation {annotation.get('id')!r} of {self.where(i)}: {error}"
                ) from error
            areas.append((self._classes.ignored if is_crowd else self._classes.value(name), runs))
        return largest_first(areas)

    def where(self, i):
        return f"{self._json} (annotations of {self._images[i]})"

    def _check_size(self, i, image, height, width):
        # Some exports leave the size out.
        size = [image.get("height") or height, image.get("width") or width]
        if size == [height, width]:
            return
        remedy = "Give the images that were annotated: they may have been resized since."
        if size == [width, height] and orientation(self._images[i]) >= 5:
            remedy = (
                f"The EXIF orientation {orientation(self._images[i])} turns the image when it is read, "
                "and it was annotated before it was turned. Remove the orientation from the file."
            )
        raise ValueError(
            "The size of an image must be the same in the annotations and in its file. Received: "
            f"{size[0]}×{size[1]} and {height}×{width} (height×width) in {self.where(i)}. {remedy}"
        )


def _runs(segmentation, height, width):
    if isinstance(segmentation, dict):
        return coco_runs(segmentation, height, width)
    return np.concatenate([_polygon(each, height, width) for each in segmentation])


def _polygon(points, height, width):
    if not isinstance(points, list):
        raise ValueError(f"A polygon must be a list [x, y, x, y, …]. Received: {reprlib.repr(points)}")
    points = numbers(points, "Coordinates")
    if len(points) % 2:
        raise ValueError(f"A polygon must be a list [x, y, x, y, …]. Received: {len(points)} numbers")
    return polygon_runs(points.reshape(-1, 2), height, width)


def _categories(categories, annotations, where):
    """The categories that are classes, in the order of their ids."""
    for category in categories:
        get(category, "id", int, f"a category of {where}")
        get(category, "name", str, f"the category {category['id']} of {where}")
    _check_unique(categories, "categories", where)
    categories = sorted(categories, key=lambda each: each["id"])
    # Roboflow adds a category 0 with the name of the project, and no annotation has it.
    if len(categories) > 1 and categories[0]["id"] == 0:
        group, *others = categories
        groups = all(each.get("supercategory") == group["name"] for each in others)
        used = any(each.get("category_id") == 0 for each in annotations)
        if groups and group.get("supercategory") == "none" and not used:
            return others
    return categories


def _by_image(images, annotations, categories, where):
    """(image, [(name of the class, whether it is a crowd, annotation)]) for each image."""
    for image in images:
        get(image, "id", (int, str), f"an image of {where}")
        get(image, "file_name", str, f"the image {image['id']!r} of {where}")
    _check_unique(images, "images", where)
    if not images:
        raise ValueError(f"{sentence(where)} must have images. Received: none")
    names = {each["id"]: each["name"] for each in categories}
    of_image = {image["id"]: [] for image in images}
    unknown, bare = defaultdict(list), []
    for annotation in annotations:
        what = f"the annotation {annotation.get('id')!r} of {where}"
        image = get(annotation, "image_id", (int, str), what)
        category = get(annotation, "category_id", int, what)
        segmentation = annotation.get("segmentation")
        if image not in of_image:
            unknown["image_id", image].append(str(annotation.get("id")))
        elif category not in names:
            unknown["category_id", category].append(str(annotation.get("id")))
        elif not segmentation or not isinstance(segmentation, (list, dict)):
            bare.append(str(annotation.get("id")))
        else:
            crowd = bool(annotation.get("iscrowd", 0))
            of_image[image].append((names[category], crowd, annotation))
    for (key, value), ids in unknown.items():
        kind = "images" if key == "image_id" else "categories"
        raise ValueError(
            f"{key!r} of an annotation must be one of the {kind} of {where}. Received: {value!r} in "
            f"{len(ids)} annotations, {first_few(ids)}"
        )
    if bare:
        raise ValueError(
            "Every annotation must have a 'segmentation' of polygons or run-length codes. Received: "
            f"{len(bare)} of {len(annotations)} annotations without, {first_few(bare)}, of {where}. "
            "Boxes alone do not tell which pixels belong to an object: export polygons or masks."
        )
    return [(image, of_image[image["id"]]) for image in images]


def _check_unique(found, kind, where):
    counts = Counter(each["id"] for each in found)
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"Ids of {kind} must be unique in {where}. Received: {twice[0]!r} twice")


def _find_images(directory, images, json):
    """The path of each image."""
    names = [image["file_name"] for image in images]

    def has(place):
        return _find_image(place, names[0]) is not None

    if not os.path.isdir(directory or os.curdir):
        raise FileNotFoundError(
            f"`images` must be the directory of the images of {json!r}. Received: {directory!r}, which "
            f"is no directory.{images_elsewhere(os.path.dirname(json), has)}"
        )
    found = [_find_image(directory, name) for name in names]
    missing = [name for name, path in zip(names, found, strict=True) if path is None]
    if missing:
        remedy = images_elsewhere(
            directory, lambda place: all(_find_image(place, name) for name in missing)
        )
        raise ValueError(
            f"Every image of {json!r} must exist in {directory or os.curdir!r}. Received: "
            f"{len(missing)} of {len(images)} missing, {first_few(missing)}."
            f"{remedy or ' Give `images`, the directory of the images.'}"
        )
    twice = [path for path, count in Counter(found).items() if count > 1]
    if twice:
        raise ValueError(
            f"Every image of {json!r} must have a file of its own in {directory or os.curdir!r}. "
            f"Received: {twice[0]!r} for two of them. Give the directory in which their names differ."
        )
    return found


def _find_image(directory, name):
    """The file of this name, in which leading directories may be those of another machine."""
    parts = [part for part in re.split(r"[\\/]", name) if part.strip(".") and not part.endswith(":")]
    parts = parts[-DEEPEST:]
    paths = (os.path.join(directory, *parts[start:]) for start in range(len(parts)))
    return next((path for path in paths if os.path.isfile(path)), None)


def _palette(categories, classes):
    """The colours of the categories, or `None` if one has no colour."""
    colours = {each["name"]: _colour(each.get("color")) for each in categories}
    chosen = [colours.get(name, (0, 0, 0)) for name in classes.labels]
    return None if None in chosen or len(set(chosen)) < len(chosen) else chosen


def _colour(value):
    """RGB from "#f1c40f" or [241, 196, 15], or `None`."""
    if isinstance(value, str) and re.fullmatch("#[0-9a-fA-F]{6}", value):
        return tuple(bytes.fromhex(value[1:]))
    if isinstance(value, list) and len(value) == 3 and all(each in range(256) for each in value):
        return tuple(value)
    return None

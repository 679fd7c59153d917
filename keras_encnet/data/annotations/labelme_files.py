"""LabelMe's annotations: a JSON file for each image."""

import base64
import contextlib
import itertools
import os
import reprlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_encnet.data.annotations.json_files import (
    entries,
    get,
    numbers,
    read_json,
    sentence,
)
from keras_encnet.data.annotations.painted import PaintedPairs, number_classes
from keras_encnet.data.annotations.polygons import check_coordinates, polygon_runs
from keras_encnet.data.folders import image_paths
from keras_encnet.data.image_files import image_size, open_bytes, upright, upright_size
from keras_encnet.data.images import read_image
from keras_encnet.data.nearby import found_nearby
from keras_encnet.data.pairs import Pairs

LINE_WIDTH = 10  # pixels; this and the next are those of LabelMe's own export
POINT_RADIUS = 5
CORNERS = 360  # of the polygon that stands for a circle
POINTS = {"circle": (2,), "rectangle": (2, 4), "line": (2,), "point": (1,), "mask": (2,)}
KINDS = (*POINTS, "linestrip", "points", "polygon", "oriented_rectangle", "rotation")


def labelme(
    folder: str | os.PathLike,
    *,
    labels: Sequence[str] | None = None,
    background: str | None = "background",
) -> Pairs:
    """Images with LabelMe's JSON files, as masks of classes.

    Later shapes are on top of earlier ones, as in LabelMe's own export. Polygons, rectangles and
    circles are rasterized as pycocotools does with polygons; LabelMe's export draws their outlines too,
    so that areas are up to a pixel wider there. Lines become 10 pixels wide, and points discs of
    radius 5, as in LabelMe's export. Shapes of the type "mask" (from its AI tools) are read as they
    are. Shapes with the label "__ignore__" give 255, which is ignored.

    The image is the file `imagePath`, or one of this name next to the JSON file, or else the embedded
    `imageData`. JSON files that are not LabelMe's are left out.

    Args:
        folder: the directory of the JSON files.
        labels: class names in label order, as in LabelMe's `labels.txt`. Default: all that occur, in
            alphabetical order. Give them if a folder may lack a class, so that all folders agree.
        background: the name of class 0, which pixels have that no shape covers; it need not be in
            `labels`. "_background_" is the same name. `None` if there is no such class: pixels that no
            shape covers are ignored.

    Returns:
        `Pairs` with labels and the default palette.

    Raises:
        FileNotFoundError: if there is no JSON file of LabelMe in `folder`.
        ValueError: if a JSON file is invalid or lacks a key, its image is missing, or a shape has an
            unknown label or type or another number of points. When a pair is read: if the image has
            another size than the JSON file says, or a shape is invalid. The message names the file.

    >>> import json, tempfile
    >>> from PIL import Image
    >>> here = tempfile.mkdtemp()
    >>> Image.new("RGB", (48, 32)).save(f"{here}/a.jpg")
    >>> box = {"label": "cat", "shape_type": "rectangle", "points": [[4, 2], [8, 6]]}
    >>> with open(f"{here}/a.json", "w") as file:
    ...     json.dump({"shapes": [box], "imagePath": "a.jpg", "imageData": None}, file)
    >>> pairs = labelme(here)
    >>> image, mask = pairs[0]
    >>> pairs.labels, mask[:3, 3:6].tolist()
    (('background', 'cat'), [[0, 0, 0], [0, 0, 0], [0, 1, 1]])
    """
    directory = os.fspath(folder)
    annotations = [each for path in _json_files(directory) if (each := _read(path)) is not None]
    if not annotations:
        raise FileNotFoundError(
            "`folder` must be a directory with LabelMe's JSON files, each with 'shapes' and "
            f"'imagePath'. Received: {directory!r}, which has none.{_elsewhere(directory)}"
        )
    found = {shape.label: each.path for each in annotations for shape in each.shapes}
    names = sorted(found) if labels is None else list(labels)
    classes = number_classes(names, background, f"the labels of {directory!r}")
    unknown = [label for label in found if classes.value(label) is None]
    if unknown:
        raise ValueError(
            f"Labels of shapes must be in `labels`, {classes.labels}. Received: {unknown[0]!r} in "
            f"{found[unknown[0]]!r}. Add it, or name the shapes '__ignore__'."
        )
    return _LabelMe(directory, annotations, classes)


class _Shape(NamedTuple):
    label: str
    kind: str
    points: np.ndarray
    mask: str | None  # a PNG in base64


class _Annotation(NamedTuple):
    path: str
    image: str | None  # a file, or `None` if the image is in the JSON file
    size: tuple  # (height, width), of which each may be missing
    shapes: list


class _LabelMe(PaintedPairs):
    def __init__(self, directory, annotations, classes):
        super().__init__([each.path for each in annotations], directory, classes)
        self._annotations = annotations

    def areas(self, i, height, width):
        self._check_size(i, height, width)
        for number, shape in enumerate(self._annotations[i].shapes):
            value = self._classes.value(shape.label)
            try:
                for runs in _runs(shape, height, width):
                    yield value, runs
            except ValueError as error:
                raise ValueError(
                    f"Cannot read the shape at place {number}, {shape.label!r}, of {self.where(i)}: "
                    f"{error}"
                ) from error

    def image(self, i):
        file = self._annotations[i].image
        if file is not None:
            return read_image(file)
        with self._embedded(i) as image:
            return read_image(upright(image, f"imageData of {self._annotations[i].path}"))

    def image_size(self, i):
        file = self._annotations[i].image
        if file is not None:
            return image_size(file)
        with self._embedded(i) as image:
            return upright_size(image, self.where(i))

    def where(self, i):
        annotation = self._annotations[i]
        image = "its embedded image" if annotation.image is None else annotation.image
        return f"{annotation.path} (annotations of {image})"

    def files(self, i):
        file = self._annotations[i].image
        return None if file is None else (file, None)

    def _embedded(self, i):
        path = self._annotations[i].path
        data = get(read_json(path), "imageData", str, f"the annotation file {path!r}")
        return open_bytes(_decoded(data, "imageData"), f"imageData of {path}")

    def _check_size(self, i, height, width):
        annotation = self._annotations[i]
        size = annotation.size[0] or height, annotation.size[1] or width
        if size != (height, width):
            raise ValueError(
                "The size of an image must be the same in the annotations and in its file. Received: "
                f"{size[0]}×{size[1]} and {height}×{width} (height×width) in {self.where(i)}. Give the "
                "image that was annotated: it may have been resized or turned since."
            )


def _json_files(directory):
    try:
        return [os.fspath(path) for path in image_paths(os.path.join(directory, "*.json"))]
    except FileNotFoundError:
        return []


def _elsewhere(directory):
    """What is near a directory without LabelMe's files, for a message."""

    def has(place):
        # The first file alone: reading all of a large folder takes long.
        with contextlib.suppress(ValueError, OSError):
            return any(_read(path) is not None for path in _json_files(place)[:1])
        return False

    found = found_nearby(directory, has)
    return found and f" They are in {found}. Give one directory."


def _read(path):
    """The annotation in a file, or `None` if it is another JSON file."""
    data = read_json(path)
    if "shapes" not in data and "imagePath" not in data:
        return None
    where = f"the annotation file {path!r}"
    shapes = [_shape(each, i, where) for i, each in enumerate(entries(data, "shapes", where))]
    size = data.get("imageHeight"), data.get("imageWidth")
    return _Annotation(path, _image_file(data, path, where), size, shapes)


def _shape(shape, number, where):
    where = f"the shape at place {number} of {where}"
    label = get(shape, "label", str, where)
    kind = shape.get("shape_type") or "polygon"
    if kind not in KINDS:
        raise ValueError(
            f"'shape_type' of {where} must be one of {', '.join(KINDS)}. Received: {kind!r}"
        )
    rows = get(shape, "points", list, where)
    if not all(isinstance(row, list) and len(row) == 2 for row in rows):
        raise ValueError(f"Points of {where} must be [x, y]. Received: {reprlib.repr(rows)}")
    if len(rows) not in POINTS.get(kind, (len(rows),)):
        counts = " or ".join(map(str, POINTS[kind]))
        raise ValueError(
            f"{sentence(where)}, a {kind}, must have {counts} points. Received: {len(rows)}"
        )
    coordinates = list(itertools.chain.from_iterable(rows))
    points = numbers(coordinates, f"Coordinates of {where}").reshape(-1, 2)
    check_coordinates(points, f"Coordinates of {where}")
    mask = get(shape, "mask", str, where) if kind == "mask" else None
    return _Shape(label, kind, points, mask)


def _image_file(data, path, where):
    """The image file, or `None` if the image is embedded."""
    # LabelMe on Windows writes backslashes.
    name = get(data, "imagePath", str, where).replace("\\", "/")
    directory = os.path.dirname(path)
    for found in (os.path.join(directory, name), os.path.join(directory, os.path.basename(name))):
        if os.path.isfile(found):
            return found
    if isinstance(data.get("imageData"), str):
        return None
    raise ValueError(
        f"The image of {where} must exist, or be embedded as 'imageData'. Received: {name!r}, which is "
        f"neither there nor in {directory!r}. Put it next to the JSON file."
    )


def _runs(shape, height, width):
    """The runs of the parts of a shape."""
    if shape.kind == "mask":
        yield _mask_runs(shape, height, width)
    else:
        for polygon in _polygons(shape.kind, shape.points):
            yield polygon_runs(polygon, height, width)


def _polygons(kind, points):
    """The polygons that a shape consists of."""
    if kind == "circle":
        return [_disc(points[0], np.hypot(*(points[1] - points[0])))]
    if kind in ("point", "points"):
        return [_disc(point, POINT_RADIUS) for point in points]
    if kind in ("line", "linestrip"):
        return [_stroke(*ends) for ends in zip(points[:-1], points[1:], strict=True)]
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        return [[(x0, y0), (x1, y0), (x1, y1), (x0, y1)]]
    return [points]


def _disc(centre, radius):
    angles = np.linspace(0, 2 * np.pi, CORNERS, endpoint=False)
    return centre + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _stroke(start, end):
    """The rectangle around a line."""
    length = np.hypot(*(end - start))
    if not length:
        return [start]
    dx, dy = (end - start) * (LINE_WIDTH / 2 / length)
    across = np.array([-dy, dx])
    return [start - across, end - across, end + across, start + across]


def _mask_runs(shape, height, width):
    """The runs of a mask that lies between two corners, which are its first and its last pixel."""
    left, top, right, bottom = np.trunc(shape.points).ravel().tolist()
    with open_bytes(_decoded(shape.mask, "mask"), "the mask of a shape") as image:
        expected = (right - left + 1, bottom - top + 1)
        inside = 0 <= left <= right < width and 0 <= top <= bottom < height
        if image.size != expected or not inside:
            raise ValueError(
                f"A mask must have the size of its box, and lie in the image of {height}×{width} "
                f"(height×width). Received: {image.size[1]}×{image.size[0]} for the box "
                f"{shape.points.tolist()}"
            )
        inside = np.asarray(upright(image, "the mask of a shape").convert("L")) > 0
    # Every column is a code of its own, as the mask is lower than the image.
    edges = np.diff(np.pad(inside.T.astype("int8"), [(0, 0), (1, 1)]))
    starts, stops = np.argwhere(edges == 1), np.argwhere(edges == -1)
    offset = [height, 1]
    return np.stack([starts @ offset, stops @ offset], axis=1) + int(left) * height + int(top)


def _decoded(text, what):
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:
        raise ValueError(f"{what!r} must be in base64 ({error}). Received: {text[:20]!r}…") from error

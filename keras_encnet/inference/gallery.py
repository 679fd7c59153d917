"""The images that a report shows: which ones, their pictures, and their captions in HTML."""

import base64
import io
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

import numpy as np
from PIL import Image

from keras_encnet.inference.markup import named, number, percent
from keras_encnet.inference.presence import share
from keras_encnet.inference.records import ImageRecord

SHOWN = 6  # images in each of the groups
SIDES = 480, 360, 240, 160  # largest side of a picture, in pixels: the first with which all fit
BUDGET = 2_000_000  # characters for all pictures of a report together
NAMED = 8  # classes named below an image
WRONG, GREY = (217, 72, 15, 255), (128, 128, 128, 150)
CLEAR = (0, 0, 0, 0)
STRIPE = 4  # pixels


class Group(NamedTuple):
    """Images that are shown together: a heading, and their places among the records."""

    heading: str
    places: list[int]


def chosen(records: Sequence[ImageRecord]) -> list[Group]:
    """The images to show: the worst, those in the middle and the best by mIoU, or all of a few.

    Images without a counted pixel have no mIoU and are left out.
    """
    miou = np.array([record.miou for record in records], "float64")
    order = np.argsort(miou, kind="stable")[: np.count_nonzero(~np.isnan(miou))].tolist()
    if len(order) <= 3 * SHOWN:
        return [Group("All images, worst first", order)] if order else []
    middle = (len(order) - SHOWN) // 2
    return [
        Group("Worst images", order[:SHOWN]),
        Group("Images in the middle", order[middle : middle + SHOWN]),
        Group("Best images, best first", order[: -SHOWN - 1 : -1]),
    ]


def shown_images(
    records: Sequence[ImageRecord],
    labels: Sequence[str],
    palette: np.ndarray,
    picture_of: Callable[[int], tuple[np.ndarray, np.ndarray, np.ndarray]],
) -> str:
    """The chosen images with truth, prediction and errors, as HTML.

    Args:
        records: of all images.
        labels: names of the classes.
        palette: their colours, `uint8` `(num_classes, 3)`.
        picture_of: gives image, `uint8` `(height, width, 3)`, truth and prediction, integers
            `(height, width)`, of a record by its place; truth that is no class is ignored.
    """
    groups = chosen(records)
    places = [place for group in groups for place in group.places]
    small = [[_shrunk(array, SIDES[0]) for array in picture_of(place)] for place in places]
    pictures = dict(zip(places, _within_budget(small, palette), strict=True))
    return "\n".join(
        f"<h3>{group.heading}</h3>\n"
        + "\n".join(_figure(records[place], pictures[place], labels, palette) for place in group.places)
        for group in groups
    )


def truth_picture(truth: np.ndarray, palette: np.ndarray) -> Image.Image:
    """A label map in its colours, hatched where it is no class, as an RGBA picture.

    >>> truth_picture(np.array([[0, 255]]), np.array([[0, 255, 0]], "uint8")).getpixel((0, 0))
    (0, 255, 0, 255)
    """
    colours = np.insert(palette, 3, 255, axis=1)
    counts = _counts(truth, len(palette))
    return _hatched(colours[np.where(counts, truth, 0)], ~counts)


def error_picture(truth: np.ndarray, prediction: np.ndarray, num_classes: int) -> Image.Image:
    """Where a prediction is wrong: orange there, clear where it is right, hatched where the truth is
    no class; an RGBA picture.

    >>> error_picture(np.array([[0, 1]]), np.array([[1, 1]]), num_classes=2).getpixel((1, 0))
    (0, 0, 0, 0)
    """
    colours = np.array([CLEAR, WRONG], "uint8")[(truth != prediction).astype(int)]
    return _hatched(colours, ~_counts(truth, num_classes))


def data_uri(picture: Image.Image, format: str = "PNG", **options) -> str:
    """A picture as a `data:` address.

    >>> data_uri(Image.new("L", (1, 1)))[:22]
    'data:image/png;base64,'
    """
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return f"data:image/{format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _counts(truth, num_classes):
    return (truth >= 0) & (truth < num_classes)


def _hatched(colours, where):
    """RGBA colours as a picture, with stripes `where`: no class has them, whatever the palette."""
    rows, columns = np.indices(where.shape, sparse=True)
    stripes = (rows + columns) // STRIPE % 2
    colours[where] = np.array([GREY, CLEAR], "uint8")[stripes[where]]
    return Image.fromarray(colours)


def _shrunk(array, side):
    """An image or a label map, at most `side` pixels long and wide."""
    height, width = array.shape[:2]
    ratio = min(1, side / max(height, width))
    height, width = max(1, round(height * ratio)), max(1, round(width * ratio))
    if array.ndim == 3:
        return np.asarray(Image.fromarray(array).resize((width, height), Image.Resampling.BOX))
    # Pixels are taken as they are: there is no class between two classes.
    rows = (np.arange(height) + 0.5) * array.shape[0] / height
    columns = (np.arange(width) + 0.5) * array.shape[1] / width
    return array[rows.astype(int)[:, None], columns.astype(int)]


def _within_budget(examples, palette):
    """The addresses of the four pictures of each example, smaller if they are too many bytes."""
    for side in SIDES:
        pictures = [
            _pictures(*(_shrunk(array, side) for array in arrays), palette) for arrays in examples
        ]
        if sum(len(uri) for uris in pictures for uri in uris) <= BUDGET:
            break
    return pictures


def _pictures(image, truth, prediction, palette):
    return (
        data_uri(Image.fromarray(image), "JPEG", quality=85),
        data_uri(truth_picture(truth, palette)),
        data_uri(truth_picture(prediction, palette)),
        data_uri(error_picture(truth, prediction, len(palette))),
    )


def _figure(record, pictures, labels, palette):
    """An image's pictures with its name and figures above and its classes below."""
    height, width = record.size
    titles = ("image", "truth", "prediction", "errors")
    cells = "".join(
        f'<div><img loading="lazy" alt="{escape(f"{record.name}: {title}")}" src="{uri}">'
        f"<span>{title}</span></div>"
        for title, uri in zip(titles, pictures, strict=True)
    )
    return (
        f'<figure class="example"><figcaption><b>{escape(record.name)}</b> '
        f"<span>mIoU {percent(record.miou)} %</span> "
        f"<span>pixel accuracy {percent(record.pixel_accuracy)} %</span> "
        f"<span>{number(width)} × {number(height)}</span></figcaption>\n"
        f'<div class="pictures" style="--aspect:{width / height:.4f}">{cells}</div>\n'
        f'<p class="key">{_key(record, labels, palette)}</p></figure>'
    )


def _key(record, labels, palette):
    """The largest classes of an image, in truth or prediction, with their IoU in it."""
    unions = record.unions
    iou = share(record.intersections, unions)
    found = [int(i) for i in np.argsort(-unions, kind="stable") if unions[i]]
    names = [
        f"<span>{named(labels[i], palette[i])} <b>{percent(iou[i], 0)}</b></span>"
        for i in found[:NAMED]
    ]
    if len(found) > NAMED:
        names.append(f"<span>and {len(found) - NAMED} more</span>")
    return " ".join(names)

"""Pictures of segmentations: overlays, legends, and comparisons with the truth."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw

from keras_encnet.data.conventions import IGNORE_INDEX, check_integer, check_palette
from keras_encnet.data.fonts import write
from keras_encnet.data.images import read_image
from keras_encnet.data.legends import INK, PAPER, with_legend

STRIP = 256  # rows blended at a time


def overlay(
    image: np.ndarray,
    label_map: np.ndarray,
    labels: Sequence[str],
    palette: ArrayLike,
    *,
    alpha: float = 0.5,
    legend: bool = True,
    confidence: np.ndarray | None = None,
) -> Image.Image:
    """The image blended with the colours of its classes, above a legend of the classes that occur.

    Args:
        image: `uint8` RGB array `(height, width, 3)`.
        label_map: integers `(height, width)`, indices of `labels`.
        labels: names of the classes.
        palette: `uint8` `(num_classes, 3)`, RGB.
        alpha: weight of the colours, 0 (the image alone) to 1 (the colours alone).
        legend: whether to add the legend, which makes the picture taller and, if needed, wider.
        confidence: `float32` `(height, width)` in [0, 1], or `None`; the colours fade where it is low.

    Returns:
        RGB PIL image; without a legend it has the size of `image`.

    Raises:
        ValueError: if `alpha` is outside [0, 1].

    >>> import numpy as np
    >>> image, label_map = np.zeros((40, 60, 3), "uint8"), np.zeros((40, 60), "uint8")
    >>> overlay(image, label_map, ["road"], [[0, 255, 0]], legend=False).getpixel((0, 0))
    (0, 128, 0)
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"`alpha` must be a number from 0 to 1. Received: {alpha}")
    palette = np.asarray(palette, "float32")
    blend = np.empty(image.shape, "uint8")
    # In strips, so that a large photograph needs no large float array.
    for top in range(0, len(image), STRIP):
        strip = slice(top, top + STRIP)
        if confidence is None:
            colours = image[strip] * np.float32(1 - alpha) + (palette * alpha)[label_map[strip]]
        else:
            weight = np.float32(alpha) * confidence[strip, :, None]
            colours = image[strip] * (1 - weight) + palette[label_map[strip]] * weight
        blend[strip] = np.rint(colours)
    picture = Image.fromarray(blend)
    if not legend:
        return picture
    counts = np.bincount(label_map.reshape(-1), minlength=len(labels))
    entries = [
        (f"{labels[i]}  {percent(counts[i] / label_map.size)}", tuple(int(c) for c in palette[i]))
        for i in np.argsort(-counts, kind="stable")
        if counts[i]
    ]
    return with_legend(picture, entries, size=max(13, round(max(picture.size) / 60)))


def comparison(
    rows: Iterable[Sequence[np.ndarray]],
    labels: Sequence[str],
    palette: ArrayLike,
    *,
    titles: Sequence[str] = ("image", "truth", "prediction"),
    ignore_index: int | None = IGNORE_INDEX,
    width: int = 360,
) -> Image.Image:
    """Image, truth and prediction side by side, above a legend of all classes.

    Args:
        rows: one row of the table each: images, arrays `(height, width, 3)` as for
            `data.images.read_image`, and label maps, integers `(height, width)`; usually (image,
            truth, prediction).
        labels: names of the classes.
        palette: `(num_classes, 3)`, RGB, integers in [0, 255].
        titles: headings of the columns.
        ignore_index: mask value that is drawn in white and named "not labelled".
        width: width of a column in pixels; the height keeps the aspect ratio.

    Returns:
        RGB PIL image.

    Raises:
        ValueError: if there are no rows, a row differs in length from `titles`, a label map has values
            that are no classes, or `palette` or `width` is invalid.

    >>> import numpy as np
    >>> image, truth = np.zeros((30, 40, 3), "uint8"), np.zeros((30, 40), "uint8")
    >>> comparison([(image, truth, truth)], ["road"], [[0, 255, 0]], width=100).mode
    'RGB'
    """
    rows = [tuple(row) for row in rows]
    if not rows or any(len(row) != len(titles) for row in rows):
        raise ValueError(
            "`rows` must hold one or more rows, each with an entry for each of the titles "
            f"{tuple(titles)}. Received: rows of lengths {[len(row) for row in rows]}"
        )
    palette = check_palette(palette, len(labels))
    check_integer("width", width, remedy="It is in pixels.")
    size = max(14, round(width / 22))
    gap = round(size * 0.8)
    pictures = [[_cell(entry, palette, ignore_index, width) for entry in row] for row in rows]

    entries = [(name, tuple(c)) for name, c in zip(labels, palette.tolist(), strict=True)]
    if any((np.asarray(entry) == ignore_index).any() for row in rows for entry in row[1:]):
        entries.append(("not labelled", PAPER))
    top = gap + round(size * 1.8)
    height = top + sum(row[0].height + gap for row in pictures) - gap // 2
    canvas = Image.new("RGB", (len(titles) * (width + gap) + gap, height), PAPER)
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        left = gap + column * (width + gap)
        write(draw, (left, gap + size // 2), title, INK, size)
        y = top
        for row in pictures:
            canvas.paste(row[column], (left, y))
            y += row[0].height + gap
    return with_legend(canvas, entries, size)


def _cell(entry, palette, ignore_index, width):
    entry = np.asarray(entry)
    is_image = entry.ndim == 3
    if is_image:
        entry = read_image(entry)
    else:
        outside = (entry < 0) | (entry >= len(palette)) & (entry != ignore_index)
        if outside.any():
            raise ValueError(
                f"Label maps must have the classes 0 to {len(palette) - 1}, or {ignore_index} "
                f"(ignored). Received: {entry[outside][0]}"
            )
        colours = np.full((max(int(entry.max()), ignore_index or 0, len(palette) - 1) + 1, 3), 255)
        colours[: len(palette)] = palette
        entry = colours.astype("uint8")[entry]
    height = max(1, round(entry.shape[0] * width / entry.shape[1]))
    return Image.fromarray(entry).resize(
        (width, height), Image.Resampling.BICUBIC if is_image else Image.Resampling.NEAREST
    )


def percent(fraction: float) -> str:
    """A fraction as whole percent, "<1 %" below 1 %."""
    return f"{100 * fraction:.0f} %" if fraction >= 0.01 else "<1 %"

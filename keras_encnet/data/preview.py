"""Pictures of images with their masks, as the network sees them."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from keras_encnet.data.batching import Batches
from keras_encnet.data.checks import check_mask, check_sizes
from keras_encnet.data.conventions import class_names, class_palette, ignore_index_for
from keras_encnet.data.fonts import text_width, write
from keras_encnet.data.images import read_image
from keras_encnet.data.legends import INK, LINE, PAPER, with_legend
from keras_encnet.data.pairs import Pairs
from keras_encnet.data.resizing import resize_mask
from keras_encnet.data.transforms import PADDING

MOST, COLUMNS = 16, 4  # images in a picture, and in a row of it
SIDE, GAP, TEXT = 360, 12, 15  # pixels: the longer side of an image, margins, size of the text

# What a pixel can be besides a class, and its name in the legend.
IGNORED, PADDED, INVALID = -1, -2, -3
OTHERS = {IGNORED: "not labelled", PADDED: "padding"}
CHEQUERS = {PADDED: [(235, 235, 235), (205, 205, 205)], INVALID: [(255, 0, 255), (0, 0, 0)]}


def show(data: Batches | Pairs | Sequence) -> Image.Image:
    """A picture of images with the colours of their masks over them, above a legend.

    Ignored pixels have stripes. Padding is chequered in grey, and mask values that are no class in
    black and magenta. Up to 16 images are shown, each above the name of its pair.

    Args:
        data: `batches(...)`: the next batch is shown as the network will get it, and training does
            not notice. Or `Pairs`, or any sequence of (image, mask): the first of them are shown as
            they are. Pass `pairs[100:]` for others.

    Returns:
        RGB PIL image. A notebook displays it; elsewhere call its `show()` or `save(path)`.

    Raises:
        ValueError: if there are no pairs, or one that is shown is invalid.

    >>> image, mask = np.zeros((32, 48, 3), "uint8"), np.ones((32, 48), "uint8")
    >>> picture = show(Pairs([(image, mask)] * 3, labels=["sky", "road"]))
    >>> picture.mode, picture.width
    ('RGB', 1128)
    """
    if isinstance(data, Batches):
        pairs, ignore_index = data.pairs, data.ignore_index
        names = [pairs.name(i) for i in data.indices(data.step)[:MOST]]
        images, masks = data.read(data.step)
        samples = list(zip(images[:MOST], masks[:MOST], strict=True))
    else:
        pairs = data if isinstance(data, Pairs) else Pairs(data)
        ignore_index = ignore_index_for(len(pairs.labels or ()))
        names = [pairs.name(i) for i in range(len(pairs))[:MOST]]
        samples = [_checked(pairs, i) for i in range(len(names))]
    if not samples:
        raise ValueError("`data` must not be empty. Received: no pairs")
    if not pairs.has_masks:
        return _grid([(_fitted(image), name) for (image, _), name in zip(samples, names, strict=True)])

    num_classes = _num_classes(pairs, [mask for _, mask in samples], ignore_index)
    palette, labels = class_palette(num_classes, pairs.palette), class_names(num_classes, pairs.labels)
    cells, found, invalid = [], set(), set()
    for (image, mask), name in zip(samples, names, strict=True):
        kinds = _kinds(image, mask, num_classes, ignore_index)
        found.update(np.unique(kinds).tolist())
        invalid.update(np.unique(mask[kinds == INVALID]).tolist())
        picture = _fitted(image)
        kinds = resize_mask(kinds, picture.height, picture.width)
        cells.append((_coloured(picture, kinds, palette), name))
    others = {**OTHERS, INVALID: f"not a class: {_listed(sorted(invalid))}"}
    entries = [(labels[kind], tuple(palette[kind].tolist())) for kind in sorted(found) if kind >= 0]
    entries += [(name, _swatch(kind)) for kind, name in others.items() if kind in found]
    return with_legend(_grid(cells), entries, TEXT)


def _checked(pairs, i):
    image, mask = pairs[i]
    image = read_image(image)
    if pairs.has_masks:
        mask = check_mask(mask, pairs.where(i))
        check_sizes(image.shape[:2], mask.shape, pairs.where(i), pairs.files(i))
    return image, mask


def _num_classes(pairs, masks, ignore_index):
    if pairs.labels or pairs.palette is not None:
        return len(pairs.labels or pairs.palette)
    largest = max(int(mask.max(where=mask != ignore_index, initial=0)) for mask in masks)
    return min(largest + 1, 1 << 16)


def _kinds(image, mask, num_classes, ignore_index):
    """The class of each pixel, or which of the others it is."""
    kinds = mask.astype("int64")
    kinds[(kinds < 0) | (kinds >= num_classes)] = INVALID
    kinds[mask == ignore_index] = IGNORED
    kinds[(mask == ignore_index) & (image == PADDING).all(axis=-1)] = PADDED
    return kinds


def _listed(values, most=5):
    return ", ".join(map(str, values[:most])) + (" …" if len(values) > most else "")


def _fitted(image):
    """The image with a longer side of `SIDE` pixels."""
    scale = SIDE / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    return Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)


def _coloured(picture, kinds, palette):
    """The picture with the colours of the classes, half transparent, and the patterns over it."""
    pixels = np.array(picture)
    is_class = kinds >= 0
    pixels[is_class] = (pixels[is_class] + palette[kinds[is_class]].astype("uint16") + 1) // 2
    y, x = np.indices(kinds.shape)
    stripe, chequer = (x + y) // 3 % 5, (x // 8 + y // 8) % 2
    pixels[(kinds == IGNORED) & (stripe == 0)] = 255
    pixels[(kinds == IGNORED) & (stripe == 1)] = 0
    for kind, colours in CHEQUERS.items():
        pixels[kinds == kind] = np.array(colours, "uint8")[chequer[kinds == kind]]
    return Image.fromarray(pixels)


def _swatch(kind):
    """The legend's example of pixels without a class, on grey."""
    grey = Image.new("RGB", (32, 32), LINE)
    return _coloured(grey, np.full((32, 32), kind), class_palette(1))


def _grid(cells):
    """Pictures in rows, each above its name."""
    line = round(TEXT * 1.6)
    rows = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    heights = [max(picture.height for picture, _ in row) + line + GAP for row in rows]
    column = max(picture.width for picture, _ in cells)
    canvas = Image.new("RGB", (GAP + len(rows[0]) * (column + GAP), GAP + sum(heights)), PAPER)
    draw, top = ImageDraw.Draw(canvas), GAP
    for row, height in zip(rows, heights, strict=True):
        for place, (picture, name) in enumerate(row):
            left = GAP + place * (column + GAP)
            canvas.paste(picture, (left, top))
            middle = top + picture.height + line // 2
            write(draw, (left, middle), _shortened(name, column), INK, TEXT)
        top += height
    return canvas


def _shortened(name, width):
    """The end of a name, as much as fits into `width`."""
    start = 0
    while start < len(name) and text_width("…" * (start > 0) + name[start:], TEXT) > width:
        start += 1
    return "…" * (start > 0) + name[start:]

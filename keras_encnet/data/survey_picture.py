"""The picture of a survey: samples with their masks over them, beside a histogram of the classes."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from keras_encnet.data.advice import outside_values
from keras_encnet.data.fonts import can_write, text_width, write
from keras_encnet.data.images import read_image
from keras_encnet.data.legends import FAINT, INK, LINE, PAPER
from keras_encnet.data.survey_records import Split, percent

IGNORED, OUTSIDE = (255, 255, 255), (255, 0, 255)
ALPHA = 0.6  # weight of the class colours over the image

SIZE, SMALL = 15, 12  # of letters
GAP, ROW = 20, 22
CELL = 300, 225  # largest width and height of a sample
SAMPLES = 4  # at least, if there are as many pairs
ROWS = 60  # of one column of the histogram
MOST_ROWS = 200  # of all columns
NAME, BAR, SHARE, IMAGES = 240, 110, 75, 65  # widths of the parts of a row; of the name, at most


def draw_survey(
    splits: Sequence[Split], labels: Sequence[str], palette: np.ndarray, ignore_index: int
) -> Image.Image:
    """Draws the picture.

    Args:
        splits: the splits of the data set.
        labels: the names of all classes.
        palette: their colours, `uint8` `(num_classes, 3)`.
        ignore_index: mask value that is drawn in white. Values outside the classes are magenta.

    Returns:
        RGB PIL image, at most some thousand pixels wide and high.
    """
    histogram = _histogram(splits, labels, palette, ignore_index)
    line = CELL[1] + ROW + GAP
    count = max(SAMPLES, histogram.height // line)
    samples = [_sample(split, i, palette, ignore_index) for split, i in _chosen(splits, count)]
    width = 2 * GAP + max((sample.width for sample in samples), default=0)
    height = max(histogram.height, sum(sample.height + GAP for sample in samples)) + 2 * GAP
    canvas = Image.new("RGB", (width + histogram.width + GAP, height), PAPER)
    top = GAP
    for sample in samples:
        canvas.paste(sample, (GAP, top))
        top += sample.height + GAP
    canvas.paste(histogram, (width, GAP))
    return canvas


def _chosen(splits, count):
    """Pairs of all splits in turn, evenly spaced, of those that can be shown: (split, index)."""
    usable = [
        [
            (split, i)
            for i, record in enumerate(split.records)
            if not record.faults and (len(record.values) or not split.pairs.has_masks)
        ]
        for split in splits
    ]
    usable = [pairs for pairs in usable if pairs]
    chosen = []
    for place, pairs in enumerate(usable):
        share = min(len(pairs), len(range(place, count, len(usable))))
        chosen += [pairs[(2 * k + 1) * len(pairs) // (2 * share)] for k in range(share)]
    return chosen


def _sample(split, i, palette, ignore_index):
    """A pair with its name: the image, and the image under the colours of its mask."""
    image, mask = split.pairs[i]
    image = Image.fromarray(read_image(image))
    scale = min(CELL[0] / image.width, CELL[1] / image.height)
    width, height = (max(1, round(side * scale)) for side in image.size)
    # Pillow reduces huge images in two steps if there is a gap.
    image = image.resize((width, height), Image.Resampling.BICUBIC, reducing_gap=3.0)
    canvas = Image.new("RGB", (2 * CELL[0] + GAP // 2, height + ROW), PAPER)
    canvas.paste(image, (0, 0))
    if mask is not None:
        mask = np.asarray(mask)
        rows = (2 * np.arange(height) + 1) * mask.shape[0] // (2 * height)
        columns = (2 * np.arange(width) + 1) * mask.shape[1] // (2 * width)
        colours = _coloured(mask[rows][:, columns], palette, ignore_index)
        over = Image.blend(image, Image.fromarray(colours), ALPHA)
        canvas.paste(over, (CELL[0] + GAP // 2, 0))
    name = " ".join(filter(None, [split.name, split.pairs.name(i)]))
    write(ImageDraw.Draw(canvas), (0, height + ROW // 2), name, FAINT, SMALL, width=canvas.width)
    return canvas


def _coloured(mask, palette, ignore_index):
    inside = (mask >= 0) & (mask < len(palette))
    colours = palette[np.where(inside, mask, 0)]
    colours[~inside] = OUTSIDE
    colours[mask == ignore_index] = IGNORED
    return colours


def _histogram(splits, labels, palette, ignore_index):
    """For each class its colour, name, share of the pixels and number of images."""
    pixels, images = Counter(), Counter()
    for split in splits:
        pixels.update(split.pixels)
        images.update(split.images)
    total = pixels.total()
    if not total:
        return Image.new("RGB", (1, 1), PAPER)
    rows = [
        (f"{i}  {label}", tuple(palette[i].tolist()), pixels[i], images[i])
        for i, label in enumerate(labels)
    ]
    if len(rows) > MOST_ROWS:
        rest = f"and {len(rows) - MOST_ROWS + 1} more classes"
        more = range(MOST_ROWS - 1, len(rows))
        rows[MOST_ROWS - 1 :] = [(rest, PAPER, sum(pixels[i] for i in more), None)]
    if pixels[ignore_index]:
        rows.append((f"ignored ({ignore_index})", IGNORED, pixels[ignore_index], images[ignore_index]))
    outside = sum(outside_values(pixels, len(labels), ignore_index).values())
    if outside:
        rows.append(("outside the classes", OUTSIDE, outside, None))

    columns = -(-len(rows) // ROWS)
    lines = -(-len(rows) // columns)
    names = min(NAME, ROW + GAP + max(text_width(row[0], SIZE) for row in rows))
    width = round(names) + BAR + SHARE + IMAGES + 2 * GAP
    lacks_font = not all(map(can_write, labels))
    canvas = Image.new("RGB", (columns * width, (lines + 1 + lacks_font) * ROW), PAPER)
    draw = ImageDraw.Draw(canvas)
    largest = max(row[2] for row in rows)
    for i, row in enumerate(rows):
        right = (i // lines + 1) * width - 2 * GAP
        if i % lines == 0:
            write(draw, (right, ROW // 2), "images", FAINT, SMALL, right=True)
            write(draw, (right - IMAGES, ROW // 2), "pixels", FAINT, SMALL, right=True)
        _draw_row(draw, right - width + 2 * GAP, right, (i % lines + 1) * ROW, row, total, largest)
    if lacks_font:
        remedy = "No font here has all characters of the names. Install Noto Sans CJK, for instance."
        write(draw, (0, canvas.height - ROW // 2), remedy, FAINT, SMALL)
    return canvas


def _draw_row(draw, left, right, top, row, total, largest):
    name, colour, pixels, images = row
    middle, start = top + ROW // 2, right - IMAGES - SHARE - BAR
    draw.rectangle((left, top + 4, left + ROW - 8, top + ROW - 4), colour, LINE)
    ink = INK if pixels else FAINT
    write(draw, (left + ROW, middle), name, ink, SIZE, width=start - left - ROW - 8)
    if pixels:
        length = max(1, round(BAR * pixels / largest))
        draw.rectangle(
            (start, top + 5, start + length, top + ROW - 5), colour, LINE if length > 3 else None
        )
    write(draw, (right - IMAGES, middle), percent(pixels, total), ink, SIZE, right=True)
    if images is not None:
        write(draw, (right, middle), str(images), ink, SIZE, right=True)

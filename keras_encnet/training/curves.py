"""The figures of a training run as curves over its epochs."""

import math
from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw

from keras_encnet.data.fonts import text_width, write
from keras_encnet.data.legends import FAINT, INK, PAPER

TRAINING, VALIDATION, TOTAL = (37, 99, 201), (214, 84, 20), (158, 180, 216)

# Title and height of each panel, and its curves: the column, its name and its colour.
PANELS = (
    (
        "Loss",
        280,
        (
            ("loss", "training, with all heads", TOTAL),
            ("pixel_loss", "training, pixels", TRAINING),
            ("val_loss", "validation, pixels", VALIDATION),
        ),
    ),
    ("mIoU", 280, (("miou", "training", TRAINING), ("val_miou", "validation", VALIDATION))),
    ("Learning rate", 130, (("learning_rate", "", TRAINING),)),
)
BEST = "mIoU", "validation"  # the curve whose highest point is marked

WIDTH = 960
LEFT, RIGHT, TOP, BELOW = 70, 24, 40, 26  # pixels around a panel
SIZE, SMALL = 15, 12  # of letters
FINE = 2  # drawn larger and reduced, which makes the lines smooth
GRID = (228, 228, 228)


def draw_curves(rows: Sequence[Mapping[str, float]]) -> Image.Image:
    """Draws loss, mIoU and learning rate, of training and validation.

    Args:
        rows: the figures of each epoch, as `History` keeps them: Keras's logs, `"epoch"` and
            `"learning_rate"`. What no row has is left out.

    Returns:
        RGB PIL image, 960 pixels wide.

    >>> rows = [{"epoch": i, "loss": 1 / i, "miou": 1 - 1 / i} for i in (1, 2, 3)]
    >>> draw_curves(rows).size
    (960, 718)
    """
    panels = []
    for title, height, curves in PANELS:
        curves = [(name, colour, _points(rows, column)) for column, name, colour in curves]
        curves = [curve for curve in curves if curve[2]]
        if curves:
            panels.append((title, height, curves))
    total = sum(TOP + height + BELOW for _, height, _ in panels) + BELOW
    canvas = Image.new("RGB", (FINE * WIDTH, FINE * total), PAPER)
    epochs = rows[0]["epoch"], max(rows[-1]["epoch"], rows[0]["epoch"] + 1)
    top = 0
    for title, height, curves in panels:
        top += TOP
        _draw_panel(canvas, top, height, title, curves, epochs)
        top += height + BELOW
    draw = ImageDraw.Draw(canvas)
    write(draw, _fine(WIDTH - RIGHT, top + BELOW // 3), "epoch", FAINT, FINE * SMALL, right=True)
    return canvas.reduce(FINE)


def _points(rows, column):
    """(epoch, value) of the rows with a finite number."""
    return [(row["epoch"], row[column]) for row in rows if math.isfinite(row.get(column, math.nan))]


def _draw_panel(canvas, top, height, title, curves, epochs):
    draw = ImageDraw.Draw(canvas)
    values = [value for _, _, points in curves for _, value in points]
    levels = _ticks(min(0, *values), max(values))
    low, high = levels[0], levels[-1]

    def place(epoch, value):
        x = LEFT + (WIDTH - LEFT - RIGHT) * (epoch - epochs[0]) / (epochs[1] - epochs[0])
        return _fine(x, top + height - height * (value - low) / (high - low))

    for level in levels:
        draw.line([place(epochs[0], level), place(epochs[1], level)], GRID, FINE)
        x, y = place(epochs[0], level)
        write(draw, (x - FINE * 8, y), f"{level:.6g}", FAINT, FINE * SMALL, right=True)
    for epoch in _ticks(*epochs, whole=True):
        if epochs[0] <= epoch <= epochs[1]:
            x, y = place(epoch, low)
            draw.line([(x, y), (x, y + FINE * 4)], FAINT, FINE)
            text = f"{epoch:g}"
            left = x - text_width(text, FINE * SMALL) / 2
            write(draw, (left, y + FINE * 13), text, FAINT, FINE * SMALL)
    for name, colour, points in curves:
        line = [place(*point) for point in points]
        draw.line(line, colour, 2 * FINE, joint="curve")
        if len(line) == 1:
            _dot(draw, line[0], colour)
        if (title, name) == BEST:
            _dot(draw, place(*_best(points)), colour)
    _write_heading(draw, top - TOP // 2, title, curves)


def _write_heading(draw, y, title, curves):
    """The title, and the names of the curves with their last values."""
    write(draw, _fine(LEFT, y), title, INK, FINE * SIZE)
    x = FINE * (WIDTH - RIGHT)
    for name, colour, points in reversed(curves):
        text = f"{name} {points[-1][1]:.3g}".strip()
        if (title, name) == BEST:
            epoch, value = _best(points)
            text += f" (best {value:.3g}, epoch {epoch})"
        write(draw, (x, FINE * y), text, INK, FINE * SMALL, right=True)
        x -= text_width(text, FINE * SMALL) + FINE * 8
        draw.line([(x - FINE * 16, FINE * y), (x, FINE * y)], colour, 3 * FINE)
        x -= FINE * (16 + 24)


def _best(points):
    return max(points, key=lambda point: point[1])


def _dot(draw, place, colour):
    x, y = place
    radius = 4 * FINE
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour, PAPER, FINE)


def _ticks(low, high, *, whole=False):
    """Round numbers from at most `low` to at least `high`, some four to six of them.

    >>> _ticks(0, 0.83), _ticks(1, 40, whole=True)
    ([0.0, 0.2, 0.4, 0.6, 0.8, 1.0], [0, 10, 20, 30, 40])
    """
    span = (high - low) or abs(high) or 1
    power = 10 ** math.floor(math.log10(span / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= 5)
    if whole:
        step = max(1, round(step))
    first, last = math.floor(low / step), math.ceil(high / step)
    return [i * step if whole else round(i * step, 12) for i in range(first, max(last, first + 1) + 1)]


def _fine(x, y):
    return FINE * x, FINE * y

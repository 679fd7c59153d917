"""Legends below pictures, and the colours of all writing in them."""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from keras_encnet.data.fonts import text_width, write

INK, FAINT, PAPER, LINE = (32, 32, 32), (110, 110, 110), (255, 255, 255), (150, 150, 150)


def with_legend(
    picture: Image.Image, entries: Sequence[tuple[str, tuple | Image.Image]], size: int
) -> Image.Image:
    """A picture above a legend, in as many columns as fit under it.

    Args:
        picture: RGB image.
        entries: one or more names, each with an RGB colour, or an image to cut the swatch from.
        size: size of the text in pixels.

    Returns:
        RGB image, wider than the picture if a name needs it.

    >>> with_legend(Image.new("RGB", (100, 50)), [("sky", (0, 128, 255))], size=15).size
    (100, 94)
    """
    pad, side, line = round(size * 0.7), round(size * 1.1), round(size * 1.6)
    column = max(text_width(name, size) for name, _ in entries) + side + line
    columns = min(len(entries), max(1, int((picture.width - 2 * pad) // column)))
    lines = -(-len(entries) // columns)
    width = max(picture.width, round(columns * column + pad))
    canvas = Image.new("RGB", (width, picture.height + lines * line + 2 * pad), PAPER)
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    for i, (name, swatch) in enumerate(entries):
        left, top = pad + round(i // lines * column), picture.height + pad + i % lines * line
        middle = top + line // 2
        box = (left, middle - side // 2, left + side, middle - side // 2 + side)
        if isinstance(swatch, Image.Image):
            canvas.paste(swatch.crop((0, 0, side, side)), box)
        else:
            canvas.paste(swatch, box)
        draw.rectangle(box, outline=LINE)
        write(draw, (left + side + size // 2, middle), name, INK, size)
    return canvas

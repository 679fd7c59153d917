"""Small street scenes, drawn with Pillow and NumPy: a data set without a download."""

import copy
import functools
import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from keras_encnet.data.conventions import check_image_size
from keras_encnet.data.pairs import Pairs

LABELS = ("sky", "building", "road", "pavement", "tree", "car", "pole", "sign", "person")
PALETTE = np.array(
    [
        (142, 202, 230),
        (188, 108, 80),
        (87, 82, 104),
        (236, 205, 160),
        (76, 149, 80),
        (33, 84, 196),
        (244, 208, 63),
        (214, 40, 57),
        (240, 110, 170),
    ],
    "uint8",
)
SKY, BUILDING, ROAD, PAVEMENT, TREE, CAR, POLE, SIGN, PERSON = range(len(LABELS))

# Flag of mask pixels that shine by themselves and keep their colour at night, until `_light`.
LIT = 64
TRANSPARENT = 255  # mask value where a strip has no pixels

# Walls, roofs, cars, signs, poles, coats and awnings share their colours, so that a colour is little
# evidence of the class.
COLOURS = (
    (176, 72, 60),
    (214, 122, 70),
    (226, 186, 106),
    (232, 222, 200),
    (240, 240, 238),
    (150, 176, 118),
    (84, 124, 74),
    (70, 138, 140),
    (134, 182, 214),
    (66, 100, 160),
    (128, 106, 150),
    (206, 142, 150),
    (130, 128, 126),
    (84, 86, 94),
    (122, 88, 66),
)
FOLIAGE = ((84, 124, 74), (104, 142, 70), (150, 160, 84), (214, 122, 70), (176, 84, 60))
FOLIAGE += ((206, 142, 150), (70, 120, 110), (222, 176, 84))
GROUND = ((130, 128, 126), (108, 108, 114), (150, 140, 128), (150, 116, 104), (178, 166, 146))

# name: sky at the top, sky at the horizon, light on objects, share of lit windows
HOURS = {
    "noon": ((84, 148, 214), (190, 220, 240), (1.06, 1.05, 1.0), 0.0),
    "morning": ((120, 170, 210), (246, 224, 190), (1.05, 0.98, 0.9), 0.1),
    "overcast": ((160, 166, 174), (204, 206, 206), (0.86, 0.88, 0.9), 0.1),
    "dusk": ((92, 96, 150), (244, 162, 110), (0.9, 0.74, 0.7), 0.4),
    "night": ((26, 32, 66), (66, 70, 112), (0.5, 0.54, 0.72), 0.5),
}


def scenes(count: int, *, seed: int = 0, size: tuple[int, int] = (128, 160)) -> Pairs:
    """Street scenes as a sequence of (image, mask), drawn on demand.

    Scene `i` depends only on `seed`, `i` and `size`. Objects of different classes share their
    colours, and camera, light and season vary. So the classes have to be recognized by texture,
    shape and context, not by the colour of a pixel.

    Args:
        count: number of scenes.
        seed: integer. Another seed gives other scenes.
        size: (height, width) in pixels, 32 or more each.

    Returns:
        `Pairs` of `uint8` images `(height, width, 3)` and `uint8` masks `(height, width)`. The mask
        values are indices into `LABELS`; no pixel is ignored.

    Raises:
        ValueError: if `count` is negative or a side is smaller than 32 pixels.

    >>> from keras_encnet.demo.drawing import scenes
    >>> image, mask = scenes(10, seed=1)[3]
    >>> image.shape, mask.shape
    ((128, 160, 3), (128, 160))
    """
    height, width = size
    if count < 0:
        raise ValueError(f"`count` must be an integer from 0 up. Received: {count}")
    check_image_size(height, width, "`size`", "Choose a larger one.")
    return _Scenes(int(count), int(seed), (int(height), int(width)))


class _Scenes(Pairs):
    labels = LABELS
    palette = PALETTE

    def __init__(self, count, seed, size):
        self.count, self.seed, self.size = count, seed, size

    def __len__(self):
        return self.count

    def read(self, i):
        return draw_scene(random.Random(f"{self.seed}/{i}"), *self.size)

    def image_size(self, i):
        return self.size

    def where(self, i):
        return f"scene {i} of seed {self.seed}"


def draw_scene(rng: random.Random, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws one scene: image `uint8` `(height, width, 3)` and mask `uint8` `(height, width)`."""
    hour = rng.choices(tuple(HOURS), (4, 3, 3, 2, 2))[0]
    camera = _camera(rng, 2 * height, 2 * width)
    canvas = _sky(rng, hour, camera)
    _street(rng, hour, camera, canvas)
    image = np.asarray(canvas.image.reduce(2), "float32")
    mask = np.array(canvas.mask)[::2, ::2]
    image, mask = _light(rng, hour, image, mask)
    if rng.random() < 0.5:
        image, mask = image[:, ::-1], mask[:, ::-1]
    return np.ascontiguousarray(image), np.ascontiguousarray(mask)


class _Canvas:
    """An image and its mask, drawn on together in local coordinates (x right, y up).

    `frame` is the origin in pixels and the number of pixels per unit along x and y."""

    def __init__(self, width, height, colour, label):
        self.image = Image.new("RGB", (width, height), colour)
        self.mask = Image.new("L", (width, height), label)
        self.paint = ImageDraw.Draw(self.image, "RGBA")
        self.ink = ImageDraw.Draw(self.mask)
        self.frame = (0, 0, 1, 1)

    def at(self, x, y, scale_x, scale_y=None):
        pen = copy.copy(self)
        pen.frame = (x, y, scale_x, abs(scale_x) if scale_y is None else scale_y)
        return pen

    def polygon(self, points, colour, label=None):
        x, y, scale_x, scale_y = self.frame
        points = [(x + scale_x * u, y - scale_y * v) for u, v in points]
        self.paint.polygon(points, fill=colour)
        if label is not None:
            self.ink.polygon(points, fill=label)

    def _corners(self, x0, y0, x1, y1):
        x, y, scale_x, scale_y = self.frame
        x0, x1, y0, y1 = x + scale_x * x0, x + scale_x * x1, y - scale_y * y0, y - scale_y * y1
        return (
            x0 if x0 < x1 else x1,
            y0 if y0 < y1 else y1,
            x1 if x0 < x1 else x0,
            y1 if y0 < y1 else y0,
        )

    def box(self, x0, y0, x1, y1, colour, label=None):
        corners = self._corners(x0, y0, x1, y1)
        self.paint.rectangle(corners, fill=colour)
        if label is not None:
            self.ink.rectangle(corners, fill=label)

    def disc(self, x, y, rx, ry, colour, label=None):
        corners = self._corners(x - rx, y - ry, x + rx, y + ry)
        self.paint.ellipse(corners, fill=colour)
        if label is not None:
            self.ink.ellipse(corners, fill=label)


@dataclass
class _Camera:
    """A camera above the street. `t` is its position across the street in metres, and `forward` its
    direction (along, across)."""

    along: bool
    height: int
    width: int
    focal: float
    horizon: float
    eye: float
    t: float
    forward: tuple
    road: float
    pavement: float

    def homography(self, origin, u, v):
        """The matrix from (u, v, 1) on the plane origin + u U + v V (along, across, up) to homogeneous
        pixel coordinates."""
        (fs, ft), plane = self.forward, np.array([u, v, origin], "float64").T
        plane[1, 2] -= self.t
        plane[2, 2] -= self.eye
        right, depth, down = np.array([(-ft, fs, 0), (fs, ft, 0), (0, 0, -1)]) @ plane
        return np.stack(
            [
                self.width / 2 * depth + self.focal * right,
                self.horizon * depth + self.focal * down,
                depth,
            ]
        )

    def meet(self, x, t):
        """Where the ray through column x meets line t: (depth, position along the street)."""
        (fs, ft), tangent = self.forward, (x - self.width / 2) / self.focal
        depth = (t - self.t) / ((ft + fs * tangent) or 1e-9)
        return depth, depth * (fs - ft * tangent)

    def pen(self, canvas, x, depth, mirror=1):
        scale = self.focal / depth
        return canvas.at(x, self.horizon + self.eye * scale, mirror * scale, scale)


def _camera(rng, height, width):
    along = rng.random() < 0.5
    road, pavement = rng.uniform(2.8, 3.6), rng.uniform(2.9, 4.0)
    yaw = math.radians(rng.uniform(-14, 14))
    common = dict(height=height, width=width, focal=rng.uniform(1.0, 1.2) * height)
    common |= dict(road=road, pavement=pavement, along=along)
    if along:
        forward, t = (math.cos(yaw), math.sin(yaw)), rng.uniform(-1.6, 1.6)
        eye, horizon = rng.uniform(1.9, 3.0), rng.uniform(0.36, 0.54)
    else:
        forward, t = (math.sin(yaw), math.cos(yaw)), -road - rng.uniform(0.6, 2.6)
        eye, horizon = rng.uniform(2.7, 3.9), rng.uniform(0.26, 0.44)
    return _Camera(forward=forward, t=t, eye=eye, horizon=horizon * height, **common)


def _tone(colour, factor):
    red, green, blue = colour
    return (
        min(255, int(red * factor)),
        min(255, int(green * factor)),
        min(255, int(blue * factor)),
    )


def _mix(a, b, share):
    return tuple(int(x + (y - x) * share) for x, y in zip(a, b, strict=True))


def _random_tone(rng, colours=COLOURS):
    return _tone(rng.choice(colours), rng.uniform(0.82, 1.12))


def _sky(rng, hour, camera):
    top, bottom, _, _ = HOURS[hour]
    top, bottom = _tone(top, rng.uniform(0.85, 1.12)), _tone(bottom, rng.uniform(0.9, 1.08))
    wide, high = 40, 32
    ramp = np.linspace(0, 1.5, high).clip(0, 1)[:, None, None] ** rng.uniform(0.7, 1.4)
    colours = np.array(top) + (np.array(bottom) - top) * np.repeat(ramp, wide, 1)
    small = Image.fromarray(colours.astype("uint8"))
    paint = ImageDraw.Draw(small, "RGBA")
    puff = _mix(bottom, (255, 255, 255), 0.6 if hour in ("noon", "morning") else 0.15)
    for _ in range(rng.randrange(5)):
        x, y = rng.uniform(0, wide), rng.uniform(1, high * 0.5)
        for _ in range(4):
            dx, dy, size = rng.uniform(-4, 4), rng.uniform(-1, 1), rng.uniform(1, 2.6)
            box = (x + dx - 1.8 * size, y + dy - size / 2, x + dx + 1.8 * size, y + dy + size / 2)
            paint.ellipse(box, fill=(*puff, 120))
    canvas = _Canvas(camera.width, camera.height, bottom, SKY)
    half = (camera.width // 2, camera.height // 2)
    small = small.resize(half, Image.Resampling.BICUBIC)
    canvas.image.paste(small.resize(canvas.image.size, Image.Resampling.NEAREST))
    unit = camera.height / 256
    if hour == "night":
        for _ in range(24):
            x, y = rng.uniform(0, camera.width), rng.uniform(0, camera.horizon)
            canvas.disc(x, y, unit, unit, (210, 214, 230))
    if rng.random() < 0.6:
        x, y, size = rng.uniform(0, camera.width), rng.uniform(0.04, 0.3) * camera.height, 13 * unit
        disc = _mix(bottom, (255, 250, 224), 0.8)
        canvas.at(x, y, 1, -1).disc(0, 0, size, size, disc)
    return canvas


def _warp(canvas, camera, strip, scale, start, origin, u, v):
    """Projects a flat strip onto the canvas.

    The strip has `scale` pixels per metre, starts at `start`, and lies on the plane origin + u U +
    v V."""
    (su, sv), (u0, v1), (wide, high) = scale, start, strip.image.size
    from_pixel = np.array([(1 / su, 0, u0), (0, -1 / sv, v1), (0, 0, 1)])
    to_picture = camera.homography(origin, u, v) @ from_pixel
    left, top, right, bottom = 0, 0, camera.width, camera.height
    x, y, depth = to_picture @ np.array([(0, wide, 0, wide), (0, 0, high, high), (1, 1, 1, 1)])
    if depth.min() > 0.1:
        x, y = x / depth, y / depth
        left, right = max(left, int(x.min())), min(right, int(x.max()) + 2)
        top, bottom = max(top, int(y.min())), min(bottom, int(y.max()) + 2)
    elif not v[2]:
        top = int(camera.horizon) + 1
    if left >= right or top >= bottom:
        return
    back = np.linalg.inv(np.array([(1, 0, -left), (0, 1, -top), (0, 0, 1)]) @ to_picture)
    both = strip.image.copy()
    both.putalpha(strip.mask)
    # Nearest is enough, as the canvas is halved later; bilinear takes six times as long.
    both = both.transform(
        (right - left, bottom - top),
        Image.Transform.PERSPECTIVE,
        tuple((back / back[2, 2]).ravel()[:8]),
        fillcolor=(0, 0, 0, TRANSPARENT),
    )
    mask = both.getchannel("A")
    seen = Image.fromarray((np.asarray(mask) != TRANSPARENT) * np.uint8(255))
    canvas.image.paste(both, (left, top), seen)
    canvas.mask.paste(mask, (left, top), seen)


def _street(rng, hour, camera, canvas):
    lit, haze = HOURS[hour][3], HOURS[hour][1]
    edge = camera.road + camera.pavement
    if camera.along:
        first, last = 1.6, rng.uniform(18, 28)
    else:
        ends = [camera.meet(x, edge)[1] for x in (0, camera.width)]
        first, last = max(min(ends) - 1, -40), min(max(ends) + 1, 40)
    rows = [_houses(rng, last - first, lit, haze, 18) for _ in range(1 + camera.along)]
    ground = _ground(rng, camera, first, last)
    place = dict(origin=(0, 0, 0), u=(1, 0, 0), v=(0, 1, 0))
    _warp(canvas, camera, ground, (12, 20), (first, edge), **place)
    if camera.along:
        place = dict(origin=(last, -edge - 0.3, 0), u=(0, 1, 0), v=(0, 0, 1))
        _warp(canvas, camera, rows[0], (18, 18), (0, 10), **place)
    for row, t in zip(rows, (edge, -edge), strict=False):
        row.paint.rectangle((0, 0, *row.image.size), fill=(10, 10, 30, rng.randrange(80)))
        place = dict(origin=(0, t, 0), u=(1, 0, 0), v=(0, 0, 1))
        _warp(canvas, camera, row, (18, 18), (first, 10), **place)
    for draw, pen in _cast(rng, camera, canvas):
        draw(rng, pen, camera.along)


def _cast(rng, camera, canvas):
    """Objects in the street, from far to near: (function that draws one, canvas with its frame)."""
    kerb, lane, walk = camera.road + 0.5, camera.road / 2, camera.road + 1.3
    far = 8.5 if camera.along else 12
    # function, number, positions across the street, nearest and farthest depth, half the width
    roles = (
        (_sign, rng.choice((1, 1, 2)), (-kerb, kerb), 4.8, far, 0.08),
        (_car, rng.choice((1, 1, 2)), (-lane, lane), 5.5, 11, 0.1 if camera.along else 0.15),
        (_person, rng.choice((1, 2)), (-walk, -lane, lane, walk), 4.8, 0.95 * far, 0.04),
        (_pole, rng.choice((1, 2, 2)), (-kerb, kerb), 4.8, far, 0.06),
        (_tree, rng.choice((1, 2, 3)), (-walk, walk), 7, 15, 0.05),
    )
    cast, taken = [], []
    for draw, count, lines, nearest, farthest, half in roles:
        for _ in range(count):
            # Of several random places, take the one with the most room, if that is enough.
            places = []
            for _ in range(14):
                x, t = rng.uniform(0.06, 0.94), rng.choice(lines)
                depth, _ = camera.meet(x * camera.width, t)
                if nearest < depth < farthest:
                    room = min((abs(x - other) - wide for other, wide in taken), default=1)
                    places.append((room, x, depth))
            room, x, depth = max(places, default=(0, 0, 0))
            if room > 0.5 * half:
                taken.append((x, half))
                pen = camera.pen(canvas, x * camera.width, depth, rng.choice((-1, 1)))
                cast.append((depth, draw, pen))
    return [(draw, pen) for _, draw, pen in sorted(cast, key=lambda item: -item[0])]


def _ground(rng, camera, first, last):
    edge, road = camera.road + camera.pavement, camera.road
    asphalt = _tone(_random_tone(rng, GROUND), rng.uniform(0.6, 1.0))
    slab = _tone(_random_tone(rng, GROUND), rng.uniform(0.7, 1.2))
    ground = _Canvas(math.ceil((last - first) * 12), math.ceil(2 * edge * 20), asphalt, ROAD)
    pen = ground.at(-first * 12, edge * 20, 12, 20)
    for side in (-1, 1):
        pen.box(first, side * road, last, side * edge, slab, PAVEMENT)
        dark, step = _tone(slab, rng.choice((0.55, 0.62, 1.4))), rng.choice((0.7, 0.9, 1.2))
        for i in range(int((last - first) / step) + 1):
            pen.box(first + i * step, side * road, first + i * step + 0.1, side * edge, dark)
        for i in range(1, int(camera.pavement / step) + 1):
            t = side * (road + i * step)
            pen.box(first, t, last, t + 0.06, dark)
        pen.box(first, side * road, last, side * (road + 0.22), _tone(slab, 1.25), PAVEMENT)
    paint = rng.choice(((235, 235, 230), (226, 186, 106)))
    for i in range(int((last - first) / 3) + 1):
        pen.box(first + 3 * i, -0.1, first + 3 * i + 1.6, 0.1, paint)
    if rng.random() < 0.4:
        s = rng.uniform(6, 12) if camera.along else rng.uniform(-4, 2)
        for i in range(int(road / 0.5)):
            pen.box(s, 0.2 - road + i, s + 2.4, 0.7 - road + i, (235, 235, 230))
    if rng.random() < 0.5:
        pen.box(first, rng.choice((-1, 1)) * edge, last, rng.uniform(-2, 2), (10, 14, 40, 80))
    return ground


def _houses(rng, length, lit, haze, scale):
    row = _Canvas(math.ceil(length * scale), 10 * scale, haze, TRANSPARENT)
    x = 0
    while x < length:
        wide = rng.uniform(3.6, 6.4)
        pen = row.at(x * scale, 10 * scale, scale)
        (_hedge if rng.random() < 0.14 else _house)(rng, pen, wide, lit)
        x += wide
    return row


def _hedge(rng, pen, wide, _):
    colour = _random_tone(rng, FOLIAGE)
    high = rng.uniform(1.2, 3.0)
    pen.box(0, 0, wide, high, _tone(colour, 0.8), TREE)
    for i in range(5):
        pen.disc((i + 0.5) * wide / 5, high, wide / 8, 0.6, colour, TREE)


def _house(rng, pen, wide, lit):
    floors = rng.choice((1, 2, 2, 3))
    high = 1.0 + 1.9 * floors
    wall, roof, trim = _random_tone(rng), _random_tone(rng), _random_tone(rng)
    pen.box(0, 0, wide, high, wall, BUILDING)
    pattern = rng.choice(("bricks", "boards", "plaster"))
    line = (*_tone(wall, 0.72), 170)
    if pattern == "bricks":
        for i in range(int(high / 0.36)):
            pen.box(0, 0.36 * i, wide, 0.36 * i + 0.07, line)
    if pattern == "boards":
        for i in range(int(wide / 0.4)):
            pen.box(0.4 * i, 0, 0.4 * i + 0.06, high, line)
    kind = rng.choice(("gable", "mansard", "flat"))
    if kind == "gable":
        top = [(-0.1, high), (wide / 2, high + 0.36 * wide), (wide + 0.1, high)]
    elif kind == "mansard":
        top = [(-0.1, high), (0.5, high + 1.2), (wide - 0.5, high + 1.2), (wide + 0.1, high)]
    else:
        top = [(0, high), (0, high + 0.35), (wide, high + 0.35), (wide, high)]
    if rng.random() < 0.5:
        at = rng.uniform(0.55, 0.75) * wide
        pen.box(at, high, at + 0.5, high + 1.5, _tone(wall, 0.7), BUILDING)
    pen.polygon(top, roof, BUILDING)
    pen.box(0, high - 0.12, wide, high + 0.06, _tone(roof, 0.65))
    pane, frame = rng.choice(((60, 74, 96), (150, 180, 200), (40, 44, 54))), _tone(trim, 1.2)
    columns = max(2, int(wide / 1.6))
    for floor in range(floors):
        base, step = 1.9 * floor + 0.95, wide / columns
        shop = floor == 0 and rng.random() < 0.4
        for i in range(columns):
            shine = lit and rng.random() < lit
            glass = (255, 222, 140) if shine else _tone(pane, rng.uniform(0.8, 1.25))
            label = BUILDING + LIT if shine else None
            left, right = (i + 0.22) * step, (i + 0.78) * step
            if shop:
                left, right = (i + 0.08) * step, (i + 0.92) * step
            low = 0.45 if shop else base
            pen.box(left - 0.09, low - 0.12, right + 0.09, base + 1.22, frame)
            pen.box(left, low, right, base + 1.12, glass, label)
            pen.box((left + right) / 2 - 0.05, low, (left + right) / 2 + 0.05, base + 1.12, frame)
            pen.box(left, base + 0.6, right, base + 0.68, frame)
        if shop:
            for i in range(8):
                stripe = trim if i % 2 else (238, 234, 226)
                pen.box(i * wide / 8, 1.75, (i + 1) * wide / 8, 2.3, stripe)
    door = (rng.randrange(columns) + 0.5) * wide / columns
    pen.box(door - 0.5, 0, door + 0.5, 1.75, frame)
    pen.box(door - 0.38, 0, door + 0.38, 1.62, _random_tone(rng))


def _shadow(pen, wide):
    pen.disc(0, 0.02, wide, wide * 0.14, (12, 14, 34, 90))


def _car(rng, pen, along):
    (_car_end if along else _car_side)(rng, pen)


def _car_side(rng, pen):
    body = _random_tone(rng)
    dark, light = _tone(body, 0.72), _tone(body, 1.22)
    half = rng.uniform(1.45, 1.75)
    cabin = rng.uniform(1.25, 1.5)
    _shadow(pen, half * 1.1)
    if rng.random() < 0.3:
        cabin += 0.35
        glass = [(-half + 0.15, cabin - 0.7), (-half + 0.2, cabin - 0.12)]
        glass += [(half - 0.75, cabin - 0.12), (half - 0.4, cabin - 0.7)]
        shell = [(-half, 0.3), (-half, cabin - 0.1), (-half + 0.1, cabin), (half - 0.7, cabin)]
        shell += [(half - 0.1, 0.95), (half, 0.85), (half, 0.3)]
    else:
        glass = [(-half + 0.35, 0.85), (-half + 0.65, cabin - 0.1), (0.3, cabin - 0.1)]
        glass += [(0.75, 0.85)]
        shell = [(-half, 0.3), (-half, 0.8), (-half + 0.12, 0.88), (-half + 0.5, cabin)]
        shell += [(0.35, cabin), (0.9, 0.88), (half - 0.1, 0.76), (half, 0.6), (half, 0.3)]
    pen.polygon(shell, body, CAR)
    pen.polygon(glass, (52, 66, 88), CAR)
    pen.box(-half, 0.28, half, 0.42, dark, CAR)
    pen.box(-half + 0.05, 0.72, half - 0.1, 0.78, light, CAR)
    pen.box(-0.28, 0.4, -0.22, cabin - 0.1, body, CAR)
    pen.box(half - 0.2, 0.56, half, 0.74, (255, 240, 190), CAR + LIT)
    pen.box(-half, 0.56, -half + 0.13, 0.76, (220, 40, 40), CAR + LIT)
    for x in (-0.6 * half, 0.6 * half):
        pen.disc(x, 0.31, 0.36, 0.36, dark, CAR)
        pen.disc(x, 0.3, 0.3, 0.3, (30, 30, 34), CAR)
        pen.disc(x, 0.3, 0.15, 0.15, (190, 190, 196), CAR)


def _car_end(rng, pen):
    body = _random_tone(rng)
    half, top = rng.uniform(0.85, 1.0), rng.uniform(1.45, 1.9)
    _shadow(pen, half * 1.25)
    for x in (-half + 0.22, half - 0.22):
        pen.box(x - 0.19, 0, x + 0.19, 0.5, (30, 30, 34), CAR)
    shell = [(-half, 0.25), (-half, 0.85), (-half + 0.08, 0.98), (-half + 0.25, top)]
    pen.polygon(shell + [(-x, y) for x, y in reversed(shell)], body, CAR)
    glass = [(-half + 0.2, 0.98), (-half + 0.36, top - 0.12)]
    pen.polygon(glass + [(-x, y) for x, y in reversed(glass)], (52, 66, 88), CAR)
    pen.box(-half, 0.25, half, 0.42, _tone(body, 0.7), CAR)
    pen.box(-half, 0.88, half, 0.94, _tone(body, 1.22), CAR)
    lamp = rng.choice(((255, 240, 190), (220, 40, 40)))
    for side in (-1, 1):
        pen.box(side * (half - 0.04), 0.58, side * (half - 0.34), 0.8, lamp, CAR + LIT)
    pen.box(-0.26, 0.42, 0.26, 0.58, (236, 232, 214), CAR)


def _tree(rng, pen, along):
    leaf, bark = _random_tone(rng, FOLIAGE), (104, 80, 62)
    dark, light = _tone(leaf, 0.74), _tone(leaf, 1.22)
    high, wide = rng.uniform(3.2, 5.2), rng.uniform(1.1, 1.7)
    _shadow(pen, wide)
    pen.polygon([(-0.28, 0), (-0.18, high / 2), (0.18, high / 2), (0.28, 0)], bark, TREE)
    pen.box(-0.28, 0, -0.1, high / 2, _tone(bark, 0.7))
    if rng.random() < 0.25:
        for i in range(4):
            base, reach = 0.9 + i * high / 5.5, wide * (1 - 0.2 * i)
            tip = base + high / 2.6
            pen.polygon([(-reach, base), (0, tip), (reach, base)], dark, TREE)
            pen.polygon([(-reach * 0.2, base), (0, tip), (reach * 0.9, base)], leaf, TREE)
        return
    middle, tall = high * 0.68, high * 0.36
    pen.disc(0, middle, wide * 0.86, tall, dark, TREE)
    for i in range(9):
        angle = i * 2.4
        x, y = 0.62 * wide * math.cos(angle), middle + 0.62 * tall * math.sin(angle)
        pen.disc(x, y, wide * 0.42, wide * 0.42, (dark, leaf)[i % 2], TREE)
    pen.disc(0.1 * wide, middle + 0.15 * tall, wide * 0.6, tall * 0.6, leaf, TREE)
    for _ in range(16):
        x, y = rng.uniform(-0.8, 0.8) * wide, middle + rng.uniform(-0.7, 0.9) * tall
        pen.disc(x, y, wide * 0.16, wide * 0.13, rng.choice((dark, leaf, light)), TREE)


def _post(pen, half, high, colour):
    """A round post. The highlight down its middle distinguishes it from the edge of a wall."""
    pen.disc(0, 0.02, 3 * half, half, (12, 14, 34, 90))
    pen.box(-half, 0, half, high, _tone(colour, 0.62), POLE)
    pen.box(-0.55 * half, 0, 0.75 * half, high, colour, POLE)
    pen.box(-0.1 * half, 0, 0.35 * half, high, _tone(colour, 1.35), POLE)
    pen.box(-1.5 * half, 0, 1.5 * half, 0.4, _tone(colour, 0.75), POLE)


def _pole(rng, pen, along):
    colour, half = _random_tone(rng), rng.uniform(0.19, 0.23)
    high = rng.uniform(3.0, 4.2)
    _post(pen, half, high, colour)
    if rng.random() < 0.4:
        pen.box(-0.36, high - 0.3, 0.36, high + 1.2, _tone(colour, 0.5), POLE)
        on = rng.randrange(3)
        for i, lamp in enumerate(((70, 200, 110), (250, 190, 60), (235, 64, 52))):
            shine = POLE + LIT if i == on else POLE
            lamp = lamp if i == on else _tone(lamp, 0.4)
            pen.disc(0, high - 0.02 + 0.47 * i, 0.2, 0.2, lamp, shine)
        return
    pen.box(-1.4 * half, high - 0.1, 1.4 * half, high + 0.06, _tone(colour, 0.7), POLE)
    lantern = [(-0.24, high), (-0.4, high + 0.75), (0.4, high + 0.75), (0.24, high)]
    pen.polygon(lantern, (255, 236, 176), POLE + LIT)
    cap = [(-0.48, high + 0.72), (0, high + 1.12), (0.48, high + 0.72)]
    pen.polygon(cap, _tone(colour, 0.7), POLE)
    pen.box(-0.03, high, 0.03, high + 0.75, _tone(colour, 0.7), POLE)


def _sign(rng, pen, along):
    _post(pen, 0.17, 2.2, _random_tone(rng))
    face, rim = _random_tone(rng), rng.choice(((244, 244, 240), (40, 42, 52)))
    mark = rng.choice(((244, 244, 240), (40, 42, 52)))
    size, middle = rng.uniform(0.66, 0.82), 2.6
    sides, turn = rng.choice(((24, 0), (3, 0), (4, 0), (4, 45), (8, 22.5)))
    size *= {3: 1.3, 4: 1.2}.get(sides, 1.0)
    for shrink, colour in ((1, rim), (0.86, face)):
        corners = []
        for i in range(sides):
            angle = math.radians(90 + turn + 360 / sides * i)
            corners.append((shrink * size * math.cos(angle), middle + shrink * size * math.sin(angle)))
        pen.polygon(corners, colour, SIGN)
    inner = size * (0.3 if sides == 3 else 0.45)
    symbol = rng.choice(("bar", "arrow", "dots", "ring"))
    if symbol == "bar":
        pen.box(-inner, middle - inner * 0.3, inner, middle + inner * 0.3, mark, SIGN)
    elif symbol == "arrow":
        pen.box(-inner * 0.22, middle - inner, inner * 0.22, middle + 0.2 * inner, mark, SIGN)
        tip = [(-inner * 0.7, middle), (0, middle + inner), (inner * 0.7, middle)]
        pen.polygon(tip, mark, SIGN)
    elif symbol == "dots":
        for x in (-0.6, 0.6):
            pen.disc(x * inner, middle, 0.38 * inner, 0.7 * inner, mark, SIGN)
    else:
        pen.disc(0, middle, inner, inner, mark, SIGN)
        pen.disc(0, middle, 0.55 * inner, 0.55 * inner, face, SIGN)


def _person(rng, pen, along):
    coat, legs, hair = (
        _random_tone(rng),
        _random_tone(rng),
        rng.choice(((60, 44, 36), (150, 106, 60), (44, 44, 50))),
    )
    skin = rng.choice(((232, 190, 160), (190, 140, 104), (122, 84, 62)))
    _shadow(pen, 0.55)
    for x in (-0.21, 0.21):
        pen.box(x - 0.17, 0, x + 0.17, 0.9, _tone(legs, 0.8), PERSON)
    pen.polygon([(-0.54, 0.7), (-0.42, 1.6), (0.42, 1.6), (0.54, 0.7)], coat, PERSON)
    pen.polygon([(0.14, 0.7), (0.14, 1.6), (0.42, 1.6), (0.54, 0.7)], _tone(coat, 0.8), PERSON)
    pen.disc(0, 1.9, 0.33, 0.35, skin, PERSON)
    pen.disc(0, 2.04, 0.35, 0.24, hair, PERSON)


@functools.cache
def _noise():
    """Periodic noise in [-1, 1]: leaves, grain and large patches."""
    generator = np.random.default_rng(0)
    rate = np.hypot(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256))
    fields = []
    for widths in ((1, 3), (0,), (8, 14)):
        field = np.zeros((256, 256))
        for width in widths:
            spectrum = np.fft.rfft2(generator.standard_normal((256, 256)))
            layer = np.fft.irfft2(spectrum * np.exp(-2 * (np.pi * width * rate) ** 2))
            field += layer / layer.std()
        fields.append((field / (2.5 * field.std())).clip(-1, 1).astype("float32"))
    return fields


def _light(rng, hour, image, mask):
    height, width = mask.shape
    light = np.array(HOURS[hour][2], "float32") * rng.uniform(0.85, 1.12)
    light *= [rng.uniform(0.94, 1.06) for _ in range(3)]
    label = mask & (LIT - 1)
    shine = (mask >= LIT).astype("float32")
    leaves, grain, patches = (_cut(rng, field, height, width) for field in _noise())
    rough = np.array([0, 0.05, 0.13, 0.06, 0.06, 0.01, 0.02, 0.01, 0.02], "float32")[label]
    gain = 1 + rough * grain + np.where(label == TREE, 0.36 * leaves, 0)
    slope_x, slope_y = rng.uniform(-0.14, 0.14), rng.uniform(-0.1, 0.1)
    gain *= 1 + slope_x * np.linspace(-1, 1, width, dtype="float32")
    gain *= 1 + slope_y * np.linspace(-1, 1, height, dtype="float32")[:, None]
    gain *= 1 + 0.1 * patches
    own = np.maximum(shine, label == SKY)[..., None]
    image = image * (light + (1 - light) * own) * gain[..., None]
    if hour in ("dusk", "night"):
        halo = Image.fromarray((255 * shine).astype("uint8"))
        halo = np.asarray(halo.filter(ImageFilter.BoxBlur(height / 20)), "float32")[..., None]
        image += halo * np.array((0.5, 0.38, 0.16), "float32")
    image += 3 * grain[..., None]
    return image.clip(0, 255).astype("uint8"), label


def _cut(rng, field, height, width):
    rows, columns = rng.randrange(256), rng.randrange(256)
    rows = np.arange(rows, rows + height) % 256
    columns = np.arange(columns, columns + width) % 256
    return field.take(rows, 0).take(columns, 1)

"""JPEG and PNG files to label maps as PNG files, with TensorFlow operations only.

file ─ size from its header ─ pixels ─ EXIF orientation ─ label map ─ PNG
"""

from collections.abc import Callable

import tensorflow as tf

from keras_encnet.data.conventions import MIN_SIZE

PNG = b"\x89PNG\r\n\x1a\n"
APP1, APP14, SCAN = [b"\xff\xe1"], [b"\xff\xee"], [b"\xff\xda"]
FRAMES = [bytes([0xFF, marker]) for marker in range(0xC0, 0xD0) if marker not in (0xC4, 0xC8, 0xCC)]
PLAIN_ADOBE = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"  # the last byte: no colour transform
ZERO_TABLE = b"\xff\xdb\0\x43\3" + bytes(64)  # quantization table 3, which makes every coefficient 0
MAX_SEGMENTS = 10_000  # searched per file: one of tiny segments would take minutes


def label_png_from_bytes(
    label_map: Callable, min_size: int = MIN_SIZE, max_pixels: int = 50_000_000
) -> Callable:
    """A traceable function from image files to label maps as PNG files.

    Pixels equal those of `data.images.read_image`, EXIF orientation included. An orientation given
    only by XMP metadata or by an old `Raw profile` text is ignored. The size is read from the header
    before decoding. Images are decoded and segmented one by one, so that memory depends on the
    largest image, not on the batch.

    Args:
        label_map: traceable function from `uint8` images `(1, height, width, 3)` of any size to
            `uint8` or `uint16` labels `(1, height, width)`.
        min_size: the shortest side that `label_map` accepts, in pixels.
        max_pixels: the most pixels that an image may have.

    Returns:
        Function from `image_bytes`, a string tensor `(batch,)` of JPEG or PNG files, to
        `{"labels_bytes": (batch,) strings, "ok": (batch,) booleans}`: grey PNG files of 8 or 16
        bits, each of the size of its upright image. For a file that is broken, truncated, neither
        JPEG nor PNG, too small or too large, `ok` is false and the labels are empty.

    >>> import tensorflow as tf
    >>> png = tf.io.encode_png(tf.fill((40, 50, 3), tf.constant(7, "uint8")))
    >>> answer = label_png_from_bytes(lambda images: images[..., 0])(tf.stack([png, "no image"]))
    >>> answer["ok"].numpy().tolist(), tf.io.decode_png(answer["labels_bytes"][0]).shape
    ([True, False], TensorShape([40, 50, 1]))
    """

    def segment(file):
        image = _image_or_empty(file, min_size, max_pixels)
        ok = tf.size(image) > 0
        png = tf.cond(
            ok,
            lambda: tf.io.encode_png(label_map(image[None])[0, :, :, None]),
            lambda: tf.constant(b""),
        )
        return {"labels_bytes": png, "ok": ok}

    def from_bytes(image_bytes):
        answer = {"labels_bytes": tf.TensorSpec((), tf.string), "ok": tf.TensorSpec((), tf.bool)}
        return tf.map_fn(segment, image_bytes, fn_output_signature=answer, parallel_iterations=1)

    return from_bytes


def _image_or_empty(file, min_size, max_pixels):
    # A graph cannot catch errors, but a dataset can drop elements that raise.
    images = tf.data.Dataset.from_tensors(file).map(lambda f: _image(f, min_size, max_pixels))
    empty = tf.data.Dataset.from_tensors(_empty())
    return images.ignore_errors().concatenate(empty).take(1).get_single_element()


def _empty():
    return tf.zeros((0, 0, 3), tf.uint8)


def _image(file, min_size, max_pixels):
    """The upright RGB image in a file; empty if its size is out of bounds."""
    is_png = _cut(file, 0, len(PNG)) == PNG
    header = tf.cond(is_png, lambda: _png_shape(file), lambda: _jpeg_shape(file))
    height, width, channels = tf.unstack(header)
    fits = (tf.minimum(height, width) >= min_size) & (height * width <= max_pixels)
    kind = tf.where(is_png, 1, tf.where(channels == 4, 3, 2))
    decoders = [_empty, lambda: _png(file), lambda: _jpeg(file), lambda: _cmyk_jpeg(file)]
    image = tf.switch_case(tf.where(fits, kind, 0), decoders)
    exif = tf.cond(is_png, lambda: _png_exif(file), lambda: _jpeg_exif(file))
    return _upright(image, _orientation(exif))


def _png_shape(file):
    return tf.stack([_number(file, 20, 4), _number(file, 16, 4), 3])


def _png(file):
    return tf.io.decode_png(file, channels=3)


def _png_exif(file):
    def found(at, *names):
        return tf.reduce_any(_cut(file, at + 4, 4) == names)

    at = _walk(
        len(PNG), lambda at: found(at, b"eXIf", b"IEND"), lambda at: at + 12 + _number(file, at, 4)
    )
    return tf.where(found(at, b"eXIf"), _cut(file, at + 8, _number(file, at, 4)), b"")


def _jpeg_shape(file):
    return tf.ensure_shape(tf.io.extract_jpeg_shape(file, tf.int64), (3,))


def _jpeg(file):
    return tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE")


def _jpeg_exif(file):
    at, end, found = _segment(file, APP1, b"Exif\0\0")
    return tf.where(found, _cut(file, at + 4, end - at - 4), b"")


def _segment(file, markers, name=b""):
    """Start and end of the first JPEG segment with one of `markers`, and whether there is one.

    The search ends at the scan; without such a segment start and end are the start of the scan."""

    def found(at):
        return tf.reduce_any(_cut(file, at, 2) == markers) & (_cut(file, at + 4, len(name)) == name)

    def end(at):
        # Fill bytes, 0xFF, may separate segments; damaged files have other bytes there.
        is_marker = (_cut(file, at, 1) == b"\xff") & (_cut(file, at + 1, 1) != [b"\0", b"\xff"])
        return at + tf.where(tf.reduce_all(is_marker), 2 + _number(file, at + 2, 2), 1)

    at = _walk(2, lambda at: found(at) | (_cut(file, at, 2) == SCAN), end)
    return at, tf.where(found(at), end(at), at), found(at)


def _walk(start, stops, following):
    """The first position from `start` on where `stops` is true; `following` gives the next one."""
    start = tf.constant(start, tf.int64)
    return tf.while_loop(
        lambda at: ~stops(at), lambda at: [following(at)], [start], maximum_iterations=MAX_SEGMENTS
    )[0]


def _cmyk_jpeg(file):
    """The pixels of a JPEG file with four components, as Pillow converts CMYK.

    `decode_jpeg` does not return four channels: from ink c and black k it makes `k * c // 255` under
    an Adobe marker and `(255 - k) * (255 - c) // 255` without one. Together these give c + k exactly.
    Zeroing the quantization table of black makes it 128 everywhere, which gives c alone.
    """
    adobe, end, is_adobe = _segment(file, APP14, b"Adobe")
    is_ycc = is_adobe & (_number(file, adobe + 15, 1) > 0)
    file = _splice(file, adobe, end, b"")
    frame, *_ = _segment(file, FRAMES)
    no_black = _splice(_splice(file, frame + 21, frame + 22, b"\3"), frame, frame, ZERO_TABLE)
    inks = _inks_plus_black(no_black) - 128
    black = (_inks_plus_black(file) - inks)[:, :, :1]
    colours = tf.cond(is_ycc, lambda: _rgb_from_ycc(inks), lambda: 255 - inks)
    taken = colours * black + 128
    taken = (taken + taken // 256) // 256  # Pillow's division by 255
    return tf.cast(black - taken, tf.uint8)


def _inks_plus_black(file):
    with_adobe = _splice(file, 2, 2, PLAIN_ADOBE)
    return 255 + tf.cast(_jpeg(with_adobe), tf.int32) - tf.cast(_jpeg(file), tf.int32)


def _rgb_from_ycc(ycc):
    """YCbCr to RGB in libjpeg's fixed-point arithmetic."""
    y, cb, cr = tf.unstack(ycc - [0, 128, 128], axis=2)
    red = y + (91881 * cr + 32768) // 65536
    green = y + (-22554 * cb - 46802 * cr + 32768) // 65536
    blue = y + (116130 * cb + 32768) // 65536
    return tf.clip_by_value(tf.stack([red, green, blue], axis=2), 0, 255)


def _orientation(exif):
    """The orientation in the first directory of a TIFF block; 1 if it holds none."""
    exif = tf.strings.regex_replace(exif, r"^(Exif\x00\x00)+", "")
    start = _cut(exif, 0, 4)
    is_tiff, little = tf.reduce_any(start == [b"II*\0", b"MM\0*"]), start == b"II*\0"
    tiff = tf.io.decode_raw(tf.where(is_tiff, exif, b""), tf.uint8)

    def number(digits):
        return _little_endian(tf.where(little, digits, digits[::-1]))

    at = number(tiff[4:8])
    entries = tiff[at + 2 :][: 12 * number(tiff[at : at + 2])]
    entries = tf.reshape(entries[: tf.size(entries) // 12 * 12], (-1, 6, 2))
    words = tf.reduce_sum(tf.cast(entries, tf.int32) * tf.where(little, [1, 256], [256, 1]), axis=2)
    tag, kind, count, value = words[:, 0], words[:, 1], words[:, 2] + words[:, 3], words[:, 4]
    found = value[(tag == 0x0112) & (kind == 3) & (count == 1)]
    return tf.concat([found, [1]], axis=0)[0]


def _upright(image, orientation):
    def is_one_of(*numbers):
        return tf.reduce_any(orientation == numbers)

    image = tf.cond(is_one_of(5, 6, 7, 8), lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    flipped = tf.where([is_one_of(3, 4, 7, 8), is_one_of(2, 3, 6, 7)])
    return tf.reverse(image, flipped[:, 0])


def _splice(file, start, end, middle):
    return _cut(file, 0, start) + middle + _cut(file, end, tf.int64.max)


def _cut(file, at, size):
    """`size` bytes of a string, or fewer at its end; a start beyond the end raises an error."""
    return tf.strings.substr(file, tf.cast(at, tf.int64), tf.cast(size, tf.int64))


def _number(file, at, size):
    """The big-endian unsigned integer at a byte."""
    return _little_endian(tf.io.decode_raw(_cut(file, at, size), tf.uint8)[::-1])


def _little_endian(digits):
    """The integer of bytes with the lowest first."""
    shifts = 8 * tf.range(tf.size(digits, tf.int64))
    return tf.reduce_sum(tf.bitwise.left_shift(tf.cast(digits, tf.int64), shifts))

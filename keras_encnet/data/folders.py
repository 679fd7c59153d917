"""Image and mask files in two directories or globs, as pairs."""

import glob
import os
import pathlib
import re
import unicodedata
from collections.abc import Mapping, Sequence

from numpy.typing import ArrayLike

from keras_encnet.data.file_pairs import FilePairs
from keras_encnet.data.nearby import found_nearby, likely_affixes
from keras_encnet.data.pairs import Pairs

IMAGE_ENDINGS = set(
    ".jpg .jpeg .jpe .jfif .png .tif .tiff .webp .avif .bmp .dib .gif .ppm .pgm .pbm .pnm".split()
)
FOREIGN_DIRECTORIES = {"__MACOSX", "@eaDir"}  # macOS's archives and Synology's thumbnails


def folder(
    images: str | os.PathLike,
    masks: str | os.PathLike | None = None,
    *,
    labels: Sequence[str] | None = None,
    label_map: Mapping[int | tuple[int, int, int], int] | None = None,
    palette: ArrayLike | None = None,
) -> Pairs:
    """Pairs of image and mask files with the same name, in natural order (`2.png` before `10.png`).

    The name is the file name without its ending, or for a glob the part that `*` stands for:
    `"*_rgb.jpg"` and `"*_mask.png"` match. Names in different Unicode forms are the same. Files are
    read on demand.

    Args:
        images: a directory of image files, or a glob. Brackets in the name of a directory that exists
            are part of the name.
        masks: the same for masks. Palette and greyscale files contain label values. `None`: images
            alone, as those of a test set.
        labels: class names in label order.
        label_map: dict that maps mask values to labels, all at once: `{255: 1}` turns 0/255 masks
            into 0/1, `{0: 255, 1: 0, 2: 1}` shifts values down by one and ignores 0. With `palette`,
            keys may be colours too: `{(0, 0, 0): 255}`.
        palette: RGB colours of the classes, `(num_classes, 3)`, integers in [0, 255], to read colour
            masks.

    Returns:
        `Pairs`: `pairs[i]` is an image `uint8` `(height, width, 3)` and its mask, integers
        `(height, width)`. Without masks, `pairs.has_masks` is `False` and the mask is `None`.

    Raises:
        FileNotFoundError: if a directory does not exist, or a directory or glob has no files.
        ValueError: if an image has no mask or a mask no image, two files have the same name, or a file
            is image and mask. The message has the globs that fit, if there are some. When a pair is
            read: if a file is truncated or not an image, the image and its mask differ in size, or a
            colour is not in `palette`. The message names the files.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as here:
    ...     for i in range(3):
    ...         Image.new("RGB", (48, 32)).save(f"{here}/{i}.jpg")
    ...         Image.new("L", (48, 32), color=255).save(f"{here}/{i}.png")
    ...     pairs = folder(f"{here}/*.jpg", f"{here}/*.png", label_map={255: 1})
    ...     image, mask = pairs[0]
    >>> image.shape, mask.shape, int(mask.max())
    ((32, 48, 3), (32, 48), 1)
    """
    names, image_files, mask_files = matching_files(images, masks)
    return FilePairs(
        image_files,
        mask_files,
        names,
        labels=labels,
        label_map=label_map,
        palette=palette,
        colours=palette,
    )


def matching_files(
    images: str | os.PathLike, masks: str | os.PathLike | None = None
) -> tuple[list[str], list[str], list[str] | None]:
    """The names, image files and mask files of two directories or globs.

    Args:
        images: a directory or a glob, as in `folder`.
        masks: the same for masks. `None` if there are none.

    Returns:
        Names, paths of images and paths of masks (or `None`), in natural order. A name is the image's
        path below the directory, without its ending.

    Raises:
        As for `folder`.
    """
    images = os.fspath(images)
    image_files = _files(images, "images")
    keys = sorted(image_files, key=lambda key: natural_order(image_files[key]))
    directory = _split(images)[0]
    names = [result_name(os.path.relpath(image_files[key], directory or ".")) for key in keys]
    paths = [image_files[key] for key in keys]
    if masks is None:
        return names, paths, None
    masks = os.fspath(masks)
    mask_files = _files(masks, "masks")
    _check_paired(images, image_files, masks, mask_files)
    return names, paths, [mask_files[key] for key in keys]


def _check_paired(images, image_files, masks, mask_files):
    both = [path for key, path in image_files.items() if path == mask_files.get(key)]
    bare = [path for key, path in image_files.items() if key not in mask_files]
    lone = [path for key, path in mask_files.items() if key not in image_files]
    globs = both or bare or lone
    globs = globs and _fitting_globs(images, image_files, masks, mask_files)
    remedy = globs and (
        f"Their names differ by more than the ending: pass `images={globs[0]!r}`, `masks={globs[1]!r}`."
    )
    if both:
        remedy = (
            remedy or "Put the masks into a directory of their own, with the names of their images."
        )
        raise ValueError(
            f"No file may be both image and mask. Received: {len(both)} such files in {images!r} and "
            f"{masks!r}, {first_few(both)}. {remedy}"
        )
    if bare:
        raise ValueError(
            f"Every image must have a mask of the same name in {masks!r} (in a glob, the name is the "
            f"part that * stands for). Received: {len(bare)} of {len(image_files)} images without a "
            f"mask, {first_few(bare)}. {remedy or 'Add the masks or move the images away.'}"
        )
    if lone:
        raise ValueError(
            f"Every mask must have an image of the same name in {images!r}. Received: {len(lone)} of "
            f"{len(mask_files)} masks without an image, {first_few(lone)}. "
            f"{remedy or 'Add the images or move the masks away.'}"
        )


def _fitting_globs(images, image_files, masks, mask_files):
    """Globs of the same files by which the names of most of them match, or `None`."""
    for affixes in likely_affixes(image_files, mask_files):
        bare = [
            {
                key.removeprefix(prefix).removesuffix(suffix): path
                for key, path in files.items()
                if key.startswith(prefix) and key.endswith(suffix)
            }
            for files, (prefix, suffix) in zip((image_files, mask_files), affixes, strict=True)
        ]
        common = bare[0].keys() & bare[1].keys()
        globs = [
            _with_affix(source, [files[key] for key in common], affix)
            for source, files, affix in zip((images, masks), bare, affixes, strict=True)
        ]
        if common and all(globs) and _fit(*globs):
            return globs
    return None


def _with_affix(source, paths, affix):
    """The glob of the files of a directory or glob that have these ends of names, or `None`."""
    directory, pattern = _split(source)
    endings = {os.path.splitext(path)[1] for path in paths}
    pattern = pattern or f"*{endings.pop() if len(endings) == 1 else '.*'}"
    stem, ending = os.path.splitext(pattern)
    before, star, after = stem.rpartition("*")
    name = f"{before}{glob.escape(affix[0])}*{glob.escape(affix[1])}{after}{ending}"
    return os.path.join(directory, name) if star else None


def _fit(images, masks):
    try:
        image_files, mask_files = _files(images, "images"), _files(masks, "masks")
    except (ValueError, FileNotFoundError):
        return False
    common = image_files.keys() & mask_files.keys()
    most = max(len(image_files), len(mask_files))
    return 2 * len(common) > most and not {*image_files.values()} & {*mask_files.values()}


def result_name(path: str) -> str:
    """A path without its ending, with "/" on every system, in one Unicode form.

    >>> result_name("bochum/0.png")
    'bochum/0'
    """
    name = os.path.splitext(path)[0].replace(os.sep, "/")
    return unicodedata.normalize("NFC", name)


def image_paths(source: str | os.PathLike) -> list[pathlib.Path]:
    """The image files of a directory or glob in natural order, or one file.

    Hidden files, such as the `._0.jpg` that macOS adds, and files that are not images by their ending
    are left out.

    Args:
        source: a directory, a glob such as `"photos/*.jpg"`, or one file of any ending. Brackets in the
            name of a directory that exists are part of the name.

    Returns:
        The paths, at least one.

    Raises:
        FileNotFoundError: if there are no image files.

    >>> import tempfile
    >>> here = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("10.jpg", "2.jpg", "._2.jpg", "notes.txt"):
    ...     (here / name).touch()
    >>> [path.name for path in image_paths(here)]
    ['2.jpg', '10.jpg']
    >>> [path.name for path in image_paths(here / "1*")]
    ['10.jpg']
    """
    source = os.fspath(source)
    if os.path.isfile(source):
        return [pathlib.Path(source)]
    directory, pattern = _split(source)
    paths = [os.path.join(directory, name) for name in _matching(directory, pattern)]
    if not paths:
        raise FileNotFoundError(
            "Images must be a directory of image files, a glob such as 'photos/*.jpg', or a file. "
            f"Received: {source!r}, {_why_empty(source)}"
        )
    return [pathlib.Path(path) for path in sorted(paths, key=natural_order)]


def _files(source, what):
    """{name: path} of the files in a directory or glob."""
    directory, pattern = _split(source)
    files = {}
    for found in sorted(_matching(directory, pattern)):
        # macOS writes names in another Unicode form than most programs.
        name = unicodedata.normalize("NFC", _wildcard_part(pattern or "*", found))
        path = os.path.join(directory, found)
        if name in files:
            raise ValueError(
                f"The names of {what} must be unique. Received: {name!r} twice, {files[name]} and "
                f"{path}. Narrow the glob, 'images/*.jpg' for instance, or rename one."
            )
        files[name] = path
    if not files:
        raise FileNotFoundError(
            f"`{what}` must be a directory of image files, or a glob such as 'images/*.jpg'. "
            f"Received: {source!r}, {_why_empty(source)}"
        )
    return files


def _split(source):
    """A directory, and the glob below it; "" for all images of the directory.

    The longest directory that exists is taken as it is, so that its name may contain brackets."""
    if os.path.isdir(source):
        return source, ""
    path = pathlib.PurePath(source)
    directory = next((each for each in path.parents if os.path.isdir(each)), path.parent)
    return ("" if str(directory) == "." else str(directory)), str(path.relative_to(directory))


def _matching(directory, pattern):
    """Paths below `directory` of the image files that match; of all of them for the pattern ""."""
    if os.path.isfile(os.path.join(directory, pattern)):
        return [pattern]
    # A glob may ask for other files than images.
    endings = IMAGE_ENDINGS | {os.path.splitext(pattern)[1].lower()} if pattern else IMAGE_ENDINGS
    return [
        name
        for name in glob.glob(pattern or "*", root_dir=directory or None, recursive=True)
        if os.path.isfile(os.path.join(directory, name))
        and os.path.splitext(name)[1].lower() in endings
        and not _is_foreign(name)
    ]


def _is_foreign(path):
    """Whether a path is hidden, or in a directory that another program added."""
    parts = pathlib.PurePath(path).parts
    return parts[-1].startswith(".") or not FOREIGN_DIRECTORIES.isdisjoint(parts)


def _why_empty(source):
    if os.path.isdir(source):
        others = found_nearby(source, lambda directory: bool(_matching(directory, "")))
        remedy = f". There are some in {others}." if others else ""
        return f"a directory without files ending in .jpg, .png and so on{remedy}"
    if glob.has_magic(source):
        return "a glob that matches no files"
    if os.path.exists(source):
        return "a special file"
    directory = os.path.dirname(source)
    missing = directory if directory and not os.path.isdir(directory) else source
    return "which does not exist" if missing == source else f"where {missing!r} does not exist"


def _wildcard_part(pattern, path):
    """The part of `path` that the wildcards of a glob stand for, without the ending.

    It is the file name if there are no wildcards before the ending."""
    pattern, path = (os.path.splitext(p.replace(os.sep, "/"))[0] for p in (pattern, path))
    wildcards = {"**/": "((?:.*/)?)", "*": "([^/]*)", "?": "([^/])"}
    regex = "".join(
        wildcards.get(part, f"({part})".replace("[!", "[^")) if place % 2 else re.escape(part)
        for place, part in enumerate(re.split(r"(\*\*/|\*|\?|\[[^]]+\])", pattern))
    )
    match = re.fullmatch(regex, path)
    found = [group.strip("/") for group in match.groups() if group] if match else []
    return "/".join(found) or os.path.basename(path)


def natural_order(name: str | os.PathLike) -> list[str | int]:
    """The key that sorts names in natural order.

    >>> sorted(["10.png", "2.png"], key=natural_order)
    ['2.png', '10.png']
    """
    parts = re.split(r"(\d+)", os.fspath(name))
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


def first_few(paths: Sequence[str], count: int = 3) -> str:
    """The first paths in natural order, for messages.

    >>> first_few(["10.png", "2.png", "3.png", "1.png"])
    '1.png, 2.png, 3.png and 1 more'
    """
    first = sorted(paths, key=natural_order)[:count]
    listed = ", ".join(map(str, first))
    return listed + (f" and {len(paths) - count} more" if len(paths) > count else "")

"""Where files that were not found may be, for messages."""

import collections
import glob
import os
import pathlib
from collections.abc import Callable, Collection, Iterator

SAMPLE = 20  # names that are compared with all others
SEPARATORS = "_-. "


def found_nearby(root: str | os.PathLike, has: Callable[[str], bool], most: int = 3) -> str:
    """The directories near `root` that have what was looked for, for a message; or "".

    Those are up to two levels below it. If these do not have it, they are beside it, and up to two
    levels above.

    Args:
        root: the directory where it is not.
        has: whether a directory has it.
        most: number of directories to name.

    >>> import tempfile
    >>> here = os.path.realpath(tempfile.mkdtemp())
    >>> os.makedirs(f"{here}/export/train")
    >>> found_nearby(here, lambda directory: directory.endswith("train")).replace(here, "")
    "'/export/train'"
    """
    path = pathlib.Path(os.path.abspath(root))
    below = [*_directories(path, "*/"), *_directories(path, "*/*/")]
    found = [directory for directory in below if has(directory)]
    if not found:
        others = [*_directories(path.parent, "*/"), *map(str, path.parents[:2])]
        found = [directory for directory in others if has(directory)]
    return " or ".join(repr(_as_given(directory, root)) for directory in found[:most])


def images_elsewhere(directory: str, has: Callable[[str], bool]) -> str:
    """A sentence about the directory of images, if it is near another one; otherwise "".

    Args:
        directory: where the images are not.
        has: whether a directory has them.
    """
    found = found_nearby(directory or os.curdir, has)
    return found and f" They are in {found}: give it as `images`."


def likely_affixes(
    names: Collection[str], others: Collection[str]
) -> Iterator[tuple[tuple[str, str], tuple[str, str]]]:
    """What may have to be left out of two kinds of names to make them the same, likely ones first.

    Args:
        names, others: the names of images and of masks, for instance.

    Yields:
        The (prefix, suffix) of `names`, and that of `others`.

    >>> next(likely_affixes(["1", "2"], ["1_mask", "2_mask"]))
    (('', ''), ('', '_mask'))
    >>> list(likely_affixes(["1_rgb", "2_rgb"], ["1_mask", "2_mask"]))
    [(('', '_rgb'), ('', '_mask'))]
    """
    none = "", ""
    added = _added(names, others), _added(others, names)
    if added[0]:
        yield none, added[0]
    if added[1]:
        yield added[1], none
    shared = _shared(names), _shared(others)
    if shared != (none, none):
        yield shared


def _added(names, others):
    """The (prefix, suffix) that most of `others` add to one of `names`, or `None`."""
    affixes = collections.Counter()
    for name in sorted(names)[:SAMPLE]:
        for other in others:
            prefix, found, suffix = other.partition(name)
            if found and (prefix or suffix) and "/" not in prefix + suffix:
                affixes[prefix, suffix] += 1
    return max(affixes, key=lambda affix: (affixes[affix], -len("".join(affix))), default=None)


def _shared(names):
    """The beginning and the end that all names share, as far as these are words of their own."""
    first, last = min(names), max(names)
    beginning = os.path.commonprefix([first, last])
    end = os.path.commonprefix([name[::-1] for name in names])[::-1]
    cut = max(beginning.rfind(separator) for separator in SEPARATORS) + 1
    starts = [end.find(separator) for separator in SEPARATORS if separator in end]
    return beginning[:cut] if "/" not in beginning else "", end[min(starts) :] if starts else ""


def _directories(path, pattern):
    return sorted(str(path / directory) for directory in glob.glob(pattern, root_dir=path))


def _as_given(directory, root):
    """A directory as people would write it after they wrote `root`."""
    root = os.fspath(root)
    if os.path.isabs(root):
        return directory
    relative = os.path.relpath(directory)
    return directory if relative.startswith(os.pardir) else relative

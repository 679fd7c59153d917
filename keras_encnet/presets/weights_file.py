"""Lists what a weights file holds: a program that `checks.check_weights` runs in a process of its own.

It reads `{"path": …}` from its standard input and prints `{"elements": n}` or `{"error": "…"}`. It
imports nothing of the package, whose import takes seconds.
"""

import json
import os
import sys

import h5py

MEMORY = 2**28  # bytes beyond what the process has; HDF5 needs a few MB for any good file


def count_elements(path: str) -> int:
    """The number of elements of all arrays in a weights file.

    Raises:
        ValueError: if it holds anything else, or its arrays are larger than the file.
    """
    kinds, sizes = {}, []
    with h5py.File(path, "r") as file:
        # Unlike `file.visititems`, this follows no link.
        file.id.links.visit(lambda name, link: kinds.update({name: link.type}), info=True)
        for name, kind in kinds.items():
            if kind != h5py.h5l.TYPE_HARD:
                raise ValueError(f"{name.decode()!r} is a link to another place")
        for name in kinds:
            item = file[name]
            if not isinstance(item, h5py.Group):
                sizes.append(_array_size(name.decode(), item))
    stored, size = sum(count for count, _ in sizes), os.path.getsize(path)
    if stored > size:
        raise ValueError(f"its arrays have {stored} bytes and the file {size}")
    return sum(elements for _, elements in sizes)


def _array_size(name, item):
    """The numbers of bytes and of elements of an item of a weights file, which must be an array."""
    if not isinstance(item, h5py.Dataset) or item.dtype.hasobject:
        raise ValueError(f"{name!r} is not an array of numbers")
    if item.external or item.is_virtual:
        raise ValueError(f"{name!r} is stored in another file")
    if item.size and item.id.get_storage_size() < item.nbytes:
        raise ValueError(f"{name!r} is compressed or has no data; Keras writes neither")
    # int4 kernels are packed, two in a byte.
    packed = 2 if item.dtype.itemsize == 1 else 1
    return item.nbytes, (item.size or 0) * packed


def _limit_memory():
    """Limits the memory of this process, on Linux; elsewhere only its time is limited."""
    if sys.platform == "linux":
        import resource

        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[0])
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def main():
    path = json.load(sys.stdin)["path"]
    _limit_memory()
    try:
        found = {"elements": count_elements(path)}
    # h5py's errors for damaged files share no base.
    except Exception as error:
        found = {"error": str(error) or type(error).__name__}
    print(json.dumps(found))


if __name__ == "__main__":
    main()

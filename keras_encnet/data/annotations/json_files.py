"""Reading annotation files in JSON, with errors that name the file and the place."""

import contextlib
import json
import os
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_encnet.data.folders import first_few


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not JSON, is nested too deeply, or is no object. The message names it.
    """
    name = os.fspath(path)
    try:
        with open(name, encoding="utf-8-sig") as file:
            data = json.load(file)
    except (FileNotFoundError, IsADirectoryError):
        raise no_file(name, ".json") from None
    except RecursionError:
        raise ValueError(
            f"Cannot read {name!r}: it is nested too deeply for an annotation file."
        ) from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError and numbers of too many digits
        raise ValueError(
            f"Cannot read {name!r}: an annotation file must be JSON ({error}). Export it again."
        ) from error
    if not isinstance(data, dict):
        raise ValueError(
            f"An annotation file must have an object, {{…}}. Received: {reprlib.repr(data)} in {name!r}"
        )
    return data


def no_file(path: str, *endings: str) -> FileNotFoundError:
    """The error about an annotation file that does not exist, or is a directory.

    The message names files with such an ending that are there, or near.

    >>> no_file("train.json", ".json")
    FileNotFoundError("There is no annotation file 'train.json'. Give the path of the .json file.")
    """
    directory = path if os.path.isdir(path) else os.path.dirname(path)
    files = sorted(
        os.path.join(each, name)
        for each in (directory, os.path.join(directory, "annotations"))
        if os.path.isdir(each or os.curdir)
        for name in os.listdir(each or os.curdir)
        if name.lower().endswith(endings) and not name.startswith(".")
    )
    received = (
        f"{path!r} is a directory" if os.path.isdir(path) else f"There is no annotation file {path!r}"
    )
    kind = " or ".join(endings)
    remedy = f"Give the path of the {kind} file"
    return FileNotFoundError(f"{received}. {remedy}{f': {first_few(files)}' if files else ''}.")


def get(entry: dict, key: str, kinds: type | tuple[type, ...], where: str) -> Any:
    """`entry[key]`, if it has one of the types `kinds`.

    Raises:
        ValueError: if the key is missing or the value has another type. `where` tells the place.
    """
    if key not in entry:
        raise ValueError(
            f"{sentence(where)} must have {key!r}. Received: the keys {reprlib.repr(list(entry))}"
        )
    value = entry[key]
    # In Python, True is an integer.
    if not isinstance(value, kinds) or isinstance(value, bool):
        names = kinds if isinstance(kinds, tuple) else (kinds,)
        listed = " or ".join(JSON_NAMES[kind] for kind in names)
        raise ValueError(f"{key!r} of {where} must be {listed}. Received: {reprlib.repr(value)}")
    return value


def entries(data: dict, key: str, where: str) -> list[dict]:
    """`data[key]`, if it is a list of objects.

    Raises:
        ValueError: if it is missing or something else. `where` tells the place.
    """
    found = get(data, key, list, where)
    for i, entry in enumerate(found):
        if not isinstance(entry, dict):
            raise ValueError(
                f"{key!r} of {where} must be a list of objects. "
                f"Received: {reprlib.repr(entry)} at place {i}"
            )
    return found


def numbers(values: Sequence, what: str, dtype: str = "float64") -> np.ndarray:
    """A list from JSON as an array.

    Args:
        values: the list.
        what: subject of the message, "Coordinates" for instance.
        dtype: `"float64"`, or `"int64"` for integers alone.

    Raises:
        ValueError: if the list has something else than numbers.

    >>> numbers([1, 2.5], "Coordinates").tolist()
    [1.0, 2.5]
    """
    kinds = {int, float} if dtype == "float64" else {int}
    # NumPy would convert texts and booleans, and give every number the size of the longest text.
    if all(type(value) in kinds for value in values):
        with contextlib.suppress(OverflowError):
            return np.array(values, dtype)
    expected = "numbers" if dtype == "float64" else "integers"
    raise ValueError(f"{what} must be {expected}. Received: {reprlib.repr(values)}")


def sentence(text: str) -> str:
    """The text with a capital letter."""
    return text[:1].upper() + text[1:]


JSON_NAMES = {list: "a list", str: "a string", int: "an integer"}

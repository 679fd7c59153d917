"""Files in the safetensors format, including bfloat16, which its NumPy library does not read."""

import json

from keras_encnet.convert.reading.blobs import Blob
from keras_encnet.convert.reading.errors import Refused, damaged, quoted
from keras_encnet.convert.reading.tensors import Tensor, contiguous

# A header has about a hundred bytes per tensor.
MAX_HEADER = 2**24
# Python's objects for a byte of JSON take at most about this many bytes: `[],` becomes 72.
JSON_COST = 32

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}


def is_safetensors(start: bytes) -> bool:
    """Whether the first bytes of a file are the size of a header and its opening brace."""
    return len(start) > 8 and start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**40


def read_safetensors(blob: Blob) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file by name, and its metadata.

    Raises:
        Refused: if the header is damaged or huge, or its tensors overlap, leave gaps or do not end
            where the file ends.
    """
    size = int.from_bytes(blob.part(0, 8).read().tobytes(), "little")
    if size > MAX_HEADER:
        raise Refused(f"must have a header of at most {MAX_HEADER} bytes. Received: {size}")
    text = blob.part(8, size).read().tobytes()
    blob.budget.spend(JSON_COST * size)
    header = json.loads(text.decode("utf-8"), object_pairs_hook=_unique)
    metadata = header.pop("__metadata__", {})
    if not all(type(value) is str for value in metadata.values()):
        raise damaged("metadata that is not text")
    data = blob.part(8 + size, blob.size - 8 - size)
    found, ends = {}, [(0, 0)]
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        if type(begin) is not int or type(end) is not int:
            raise damaged(f"{quoted(name)} has offsets that are not integers")
        if entry["dtype"] not in DTYPES:
            raise Refused(f"holds {quoted(name)} of the unknown type {quoted(str(entry['dtype']))}.")
        ends.append((begin, end))
        found[name] = contiguous(data.part(begin, end - begin), entry["shape"], DTYPES[entry["dtype"]])
    ends = [*sorted(ends), (data.size, data.size)]
    if any(end != begin for (_, end), (begin, _) in zip(ends, ends[1:], strict=False)):
        raise damaged("its tensors overlap, leave gaps, or end before the file does")
    return found, metadata


def _unique(pairs):
    if len(dict(pairs)) != len(pairs):
        raise damaged("a name occurs twice in its header")
    return dict(pairs)

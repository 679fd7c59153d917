"""Checkpoint files for tests, written without PyTorch."""

import json
import pathlib

from golden.weights import state_dict

NAMES = {"float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64"}
SHAPES = json.loads(pathlib.Path(__file__).with_name("shapes.json").read_text())


def shapes_of(architecture, num_classes=3):
    """The names and shapes of an original, `{key: shape}`."""
    return {
        key: tuple(num_classes if n == -1 else n for n in shape)
        for key, shape in SHAPES[architecture].items()
    }


def write_safetensors(path, state, metadata=None):
    """Writes 8 bytes of length, a JSON header and the bytes of the arrays."""
    header, start = {"__metadata__": metadata} if metadata else {}, 0
    for key, value in state.items():
        end = start + value.nbytes
        header[key] = {
            "dtype": NAMES[value.dtype.name],
            "shape": list(value.shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(header).encode()
    parts = [len(text).to_bytes(8, "little"), text, *(value.tobytes() for value in state.values())]
    pathlib.Path(path).write_bytes(b"".join(parts))
    return path


def tiny(shapes, num_classes=3):
    """The same network with an eighth of the channels and 4 codes."""
    small = {}
    for key, shape in shapes.items():
        if not shape:
            small[key] = shape
            continue
        out = [max(1, n // 8) if n > 3 else n for n in shape]
        norm_of_codes = "enc_module.encoding.1." in key or "encmodule.encoding.4." in key
        if norm_of_codes or key.endswith(("codewords", ".scale")):
            out[0] = 4
        if len(shape) == 4:
            out[2:] = shape[2:]
        classifier = any(part in key for part in ("conv_seg.", "se_layer.", "conv6.1.", "selayer."))
        if classifier or "auxlayer.conv5.4." in key:
            out[0] = num_classes
        small[key] = tuple(out)
    return small


def tiny_state(architecture, num_classes=3, seed=0):
    return state_dict(tiny(shapes_of(architecture, num_classes), num_classes), seed)

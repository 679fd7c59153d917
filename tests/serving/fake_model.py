"""A model with the inputs and outputs of an exported EncNet, but with simple answers."""

import json

import numpy as np

LABELS = ["red", "green", "blue"]
PALETTE = [[200, 30, 40], [10, 150, 60], [20, 60, 210]]


def answer(image):
    """The model's labels and presence for a `uint8` image `(height, width, 3)`: the strongest channel
    of each pixel (on ties, the first) and the mean of each channel."""
    return image.argmax(-1).astype("uint8"), image.mean((0, 1), "float32") / 255


def write(
    path,
    *,
    metadata=None,
    presence=True,
    confidence=False,
    size=("batch", "height", "width"),
    labels="labels",
    work=True,
):
    """Writes the model as ONNX.

    With `work`, a call takes about as many milliseconds as the largest red value among the images'
    first pixels, so that tests can make images slow.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    node = helper.make_node
    side = 500
    constants = {
        "first": np.array([0, 0, 0, 0], "int64"),
        "last": np.array([2**31, 1, 1, 1], "int64"),
        "full": np.float32(255),
        "each": np.float32(work),
        "nothing": np.float32(0),
        "true": np.array(True),
        "matrix": np.full((side, side), 1 / side, "float32"),
    }
    matrix = [TensorProto.FLOAT, [side, side]]
    body = helper.make_graph(
        [
            node("MatMul", ["state", "matrix"], ["next"]),
            node("Identity", ["again"], ["go"]),
        ],
        "work",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("again", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", *matrix),
        ],
        [
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", *matrix),
        ],
    )
    nodes = [
        node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        node("Slice", ["floats", "first", "last"], ["corners"]),
        node("ReduceMax", ["corners"], ["strongest"], keepdims=0),
        node("Mul", ["strongest", "each"], ["number"]),
        node("Cast", ["number"], ["rounds"], to=TensorProto.INT64),
        node("Loop", ["rounds", "true", "matrix"], ["worked"], body=body),
        node("ReduceMax", ["worked"], ["one"], keepdims=0),
        node("Mul", ["one", "nothing"], ["zero"]),
        node("Add", ["floats", "zero"], ["channels"]),
        node("ArgMax", ["channels"], ["indices"], axis=-1, keepdims=0),
        node("Cast", ["indices"], [labels], to=TensorProto.UINT8),
        node("Div", ["channels", "full"], ["shares"]),
        node("ReduceMean", ["shares"], ["presence"], axes=[1, 2], keepdims=0),
        node("ReduceMax", ["shares"], ["confidence"], axes=[3], keepdims=0),
    ]
    batch = size[0]
    outputs = [helper.make_tensor_value_info(labels, TensorProto.UINT8, list(size))]
    if presence:
        outputs.append(helper.make_tensor_value_info("presence", TensorProto.FLOAT, [batch, 3]))
    if confidence:
        outputs.append(helper.make_tensor_value_info("confidence", TensorProto.FLOAT, list(size)))
    graph = helper.make_graph(
        nodes,
        "fake",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [*size, 3])],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    if metadata is None:
        metadata = {"labels": LABELS, "palette": PALETTE}
    helper.set_model_props(model, {key: json.dumps(value) for key, value in metadata.items()})
    onnx.save(model, str(path))

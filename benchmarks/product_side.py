"""Serves one library's products of square matrices, for the limit of the other measurements.

    python benchmarks/product_side.py LIBRARY [--device cuda]

    {"dtype": "float32", "size": 4096}
    {"flops_per_second": 2.1e11}

LIBRARY is a key of LIBRARIES. Optional in a request: `repeat`, the number of products in a row. Nothing
is warmed up: the caller should discard the first answer of each kind. This is a process of its own
because some of the memory for products is never released.
"""

import argparse
import importlib.metadata
import importlib.util
import time

import numpy as np
from turns import serve

# Each function returns one that multiplies `a` by itself, and one that waits for the result.


def numpy_product(a, dtype, cuda):
    return lambda: a @ a, lambda c: c


def tensorflow_product(a, dtype, cuda):
    import tensorflow as tf

    a = tf.constant(a, dtype)
    product = tf.function(tf.matmul)
    return lambda: product(a, a), lambda c: c[0, 0].numpy()


def torch_product(a, dtype, cuda):
    import torch

    a = torch.tensor(a, dtype=getattr(torch, dtype), device="cuda" if cuda else "cpu")
    return lambda: a @ a, lambda c: c[0, 0].item()


def jax_product(a, dtype, cuda):
    import jax

    a = jax.numpy.asarray(a, dtype)
    product = jax.jit(jax.numpy.matmul)
    return lambda: product(a, a), lambda c: c.block_until_ready()


def onnxruntime_product(a, dtype, cuda):
    import onnx
    import onnxruntime

    tensor = onnx.helper.make_tensor_value_info
    a_info, c_info = (tensor(name, onnx.TensorProto.FLOAT, a.shape) for name in ("a", "c"))
    node = onnx.helper.make_node("MatMul", ["a", "a"], ["c"])
    graph = onnx.helper.make_graph([node], "product", [a_info], [c_info])
    opset = onnx.helper.make_opsetid("", 17)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return lambda: session.run(None, {"a": a}), lambda c: c


BOTH = ("float32", "bfloat16")
# package: its name in print, the function, the data types on the CPU, other packages it needs
LIBRARIES = {
    "numpy": ("NumPy", numpy_product, ("float32",), ()),
    "tensorflow": ("TensorFlow", tensorflow_product, BOTH, ()),
    "torch": ("PyTorch", torch_product, BOTH, ()),
    "jax": ("JAX", jax_product, BOTH, ()),
    "onnxruntime": ("ONNX Runtime", onnxruntime_product, ("float32",), ("onnx",)),
}
ON_CUDA = ("torch", "jax")


def installed(library: str) -> bool:
    needed = (library, *LIBRARIES[library][3])
    return all(importlib.util.find_spec(package) for package in needed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options = parser.parse_args()
    products = {}

    def answer(dtype, size, repeat=1):
        if (dtype, size) not in products:
            a = np.random.default_rng(0).standard_normal((size, size), "float32")
            make = LIBRARIES[options.library][1]
            products[dtype, size] = make(a, dtype, options.device == "cuda")
        product, wait = products[dtype, size]
        start = time.perf_counter()
        for _ in range(repeat):
            result = product()
        wait(result)
        return {"flops_per_second": 2 * size**3 * repeat / (time.perf_counter() - start)}

    serve(lambda: ({options.library: importlib.metadata.version(options.library)}, answer))


if __name__ == "__main__":
    main()

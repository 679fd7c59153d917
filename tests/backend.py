"""Gradients and conversions that tests need on every backend."""

import keras
import numpy as np


def gradients(function, *arrays):
    """The gradients of a scalar function with respect to each of some arrays, as NumPy arrays."""
    backend = keras.backend.backend()
    tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            for tensor in tensors:
                tape.watch(tensor)
            value = function(*tensors)
        grads = tape.gradient(value, tensors)
    elif backend == "jax":
        import jax

        grads = jax.jit(jax.grad(function, argnums=tuple(range(len(tensors)))))(*tensors)
    else:
        tensors = [tensor.detach().requires_grad_() for tensor in tensors]
        function(*tensors).backward()
        grads = [tensor.grad for tensor in tensors]
    return [np.asarray(keras.ops.convert_to_numpy(g)) for g in grads]


def dot(tensor, array):
    """The sum of the products of a tensor's and a NumPy array's elements; both have the same shape."""
    return keras.ops.sum(tensor * keras.ops.convert_to_tensor(array))


def numpy(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor))

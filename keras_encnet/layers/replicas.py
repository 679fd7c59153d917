"""Statistics of the global batch, of which each replica of a model has a part.

Replicas are those of a `tf.distribute` strategy, and the processes of `torch.distributed` while
gradients are recorded: without them, as in validation, a process may be alone. In JAX a tensor is that
of the global batch already, wherever its parts are.
"""

import keras
from keras import ops


def global_sum(x):
    """The sum of a tensor over all replicas; with one replica the tensor itself.

    A loss that is made of such sums is the global batch's on every replica. The gradient is right if
    the mean of the replicas' losses is minimized, as `tf.distribute` and PyTorch's
    `DistributedDataParallel` do.

    >>> float(global_sum(np.float32(3)))
    3.0
    """
    if number_of_replicas() == 1:
        return x
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        replica = tf.distribute.get_replica_context()
        # There is none while Keras infers shapes.
        return x if replica is None else replica.all_reduce(tf.distribute.ReduceOp.SUM, x)
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(x)


def number_of_replicas() -> int:
    """How many replicas share a batch.

    >>> number_of_replicas()
    1
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.distribute.get_strategy().num_replicas_in_sync
    if backend == "torch":
        from torch import distributed, is_grad_enabled

        if distributed.is_available() and distributed.is_initialized() and is_grad_enabled():
            return distributed.get_world_size()
    return 1


def global_moments(x, axes):
    """The global batch's mean and variance along `axes`, and of how many values they are made.

    >>> x = keras.ops.convert_to_tensor([[1.0], [2.0], [6.0]])
    >>> [float(value) for value in global_moments(x, (0, 1))]
    [3.0, 4.666..., 3.0]
    """
    shape = ops.shape(x)
    local = ops.cast(ops.prod([shape[axis] for axis in axes]), x.dtype)
    count = global_sum(local)
    mean = global_sum(ops.sum(x, axes, keepdims=True)) / count
    # Not `ops.moments`: on two backends it computes E[x²] − E[x]², which cancels.
    variance = global_sum(ops.sum(ops.square(x - mean), axes)) / count
    return ops.squeeze(mean, axes), variance, count

"""What data needs in order to be shared by several devices."""

import keras
import numpy as np

from keras_encnet.data.batching import Batches


def for_devices(model, x, y=None, sample_weight=None) -> tuple:
    """The data of `model.fit` or `model.evaluate`, as Keras can share them among the model's devices.

    - `Batches` of a process of its own, `batches(shard=...)`: told to TensorFlow as such.
    - Arrays, in JAX, whose last batch cannot be divided among the devices: completed by images that are
      ignored and have no weight, and so count for nothing.

    Everything else stays as it is.

    >>> model = keras_encnet.EncNet("resnet18", 3, width=0.125, head_channels=16)
    >>> images, masks = np.zeros((3, 32, 32, 3), "uint8"), np.zeros((3, 32, 32), "uint8")
    >>> for_devices(model, images, masks)[0] is images  # there is one device
    True
    """
    strategy = getattr(model, "_distribute_strategy", None)
    if isinstance(x, Batches) and x.shard[1] > 1 and strategy is not None:
        return _adapter(x, strategy), None, None
    distribution = keras.distribution.distribution()
    if distribution is None or not isinstance(x, np.ndarray):
        return x, y, sample_weight
    missing = -len(x) % distribution.device_mesh.devices.size
    if not missing:
        return x, y, sample_weight
    if sample_weight is None:
        sample_weight = np.ones(len(x), "float32")
    return _longer(x, missing), _longer(y, missing, model.ignore_index), _longer(sample_weight, missing)


def _longer(array, missing, value=0):
    array = np.asarray(array)
    return np.concatenate([array, np.full((missing, *array.shape[1:]), value, array.dtype)])


def _adapter(batches, strategy):
    from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter

    class Adapter(PyDatasetAdapter):
        def get_tf_dataset(self):
            # Without this each process would take a part of its part.
            dataset = super().get_tf_dataset()
            per_replica = batches.batch_size // strategy.num_replicas_in_sync
            return strategy.distribute_datasets_from_function(lambda _: dataset.rebatch(per_replica))

    return Adapter(batches)

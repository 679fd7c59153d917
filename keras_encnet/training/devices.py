"""What data needs in order to be shared by several devices."""

import keras
import numpy as np

from keras_encnet.data.batching import Batches


def for_devices(model, x, y=None, sample_weight=None, batch_size=None) -> tuple:
    """The data of `model.fit` or `model.evaluate`, as Keras can share them among the model's devices.

    A device that gets no image of the last batch would fail. So what is validated on is completed by
    images that count for nothing: all of their pixels are ignored, and their weight is 0.

    - `Batches` complete their last batch themselves. Those of a process of its own,
      `batches(shard=...)`, are told to TensorFlow as such.
    - Arrays are completed to a multiple of `batch_size` (32 by default, as in Keras).

    Everything else stays as it is.

    >>> model = keras_encnet.EncNet("resnet18", 3, width=0.125, head_channels=16)
    >>> images, masks = np.zeros((3, 32, 32, 3), "uint8"), np.zeros((3, 32, 32), "uint8")
    >>> for_devices(model, images, masks)[0] is images  # there is one device
    True
    """
    strategy = getattr(model, "_distribute_strategy", None)
    is_shared = _number_of_devices(strategy) > 1
    if isinstance(x, Batches):
        x.shared = x.shared or is_shared
        if x.shard[1] > 1 and strategy is not None:
            x = _adapter(x, strategy)
        return x, y, sample_weight
    if not is_shared or not isinstance(x, np.ndarray):
        return x, y, sample_weight
    missing = -len(x) % (batch_size or 32)
    if not missing:
        return x, y, sample_weight
    if sample_weight is None:
        sample_weight = np.ones(len(x), "float32")
    return _longer(x, missing), _longer(y, missing, model.ignore_index), _longer(sample_weight, missing)


def _number_of_devices(strategy):
    if strategy is not None:
        return strategy.num_replicas_in_sync
    distribution = keras.distribution.distribution()
    return 1 if distribution is None else distribution.device_mesh.devices.size


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

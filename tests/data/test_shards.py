"""`batches(shard=...)`: the parts of several processes are the batches of one."""

import numpy as np
import pytest

from keras_encnet.data import batches

IMAGES = np.random.default_rng(0).integers(0, 256, (11, 32, 48, 3), dtype="uint8")
PAIRS = [(image, np.full((32, 48), i, "uint8")) for i, image in enumerate(IMAGES)]


def parts(count, **options):
    options = {"size": (32, 32), "batch_size": 6, "seed": 0} | options
    every = [batches(PAIRS, shard=(index, count), **options) for index in range(count)]
    return batches(PAIRS, **options), every


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("count", [2, 3])
def test_parts_are_the_batch_of_one_process_in_every_epoch(count, workers):
    complete, every = parts(count, augment=True, repeat=2, workers=workers)
    assert {len(part) for part in every} == {len(complete)} == {3}
    for start in (0, 4):  # in the middle of the second epoch, as after a restart
        for data in (complete, *every):
            data.start_at(start)
        for i in range(len(complete)):
            images, masks = complete[i]
            found = [part[i] for part in every]
            assert {len(part[0]) for part in found} == {6 // count}
            np.testing.assert_array_equal(np.concatenate([part[0] for part in found]), images)
            np.testing.assert_array_equal(np.concatenate([part[1] for part in found]), masks)
            assert sum((part.indices(start + i) for part in every), []) == complete.indices(start + i)


@pytest.mark.parametrize("size", [(32, 32), None])
def test_validation_has_each_image_once_and_complete_batches(size):
    # 11 images in batches of 8: the last has 3, which two processes have and the others lack.
    complete, every = parts(4, size=size, batch_size=8)
    seen = []
    for i in range(2):
        found = [part[i] for part in every]
        assert {(images.shape, masks.shape) for images, masks, _ in found} == {
            ((2, *complete[i][0].shape[1:]), (2, *complete[i][1].shape[1:]))
        }
        images, masks, weights = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        assert set(weights) <= {0, 1}
        np.testing.assert_array_equal(images[weights == 1], complete[i][0])
        np.testing.assert_array_equal(masks[weights == 1], complete[i][1])
        assert not images[weights == 0].any() and (masks[weights == 0] == 255).all()
        seen += complete.indices(i)
    assert sorted(seen) == list(range(11))


def test_complete_batches_need_no_weights():
    for part in parts(2, batch_size=11 * 2, repeat=2, augment=True)[1]:
        assert len(part[0]) == 2
    pairs = PAIRS[:8]
    assert len(batches(pairs, size=(32, 32), batch_size=4, shard=(1, 2))[0]) == 2


def test_shard_is_checked():
    for invalid in ((2, 2), (-1, 2), (0, 0), 3, (0, 1.5), None):
        with pytest.raises(ValueError, match=r"`shard` must be \(index, count\).* Received: "):
            parts_of(invalid, 6)
    with pytest.raises(ValueError, match=r"multiple of the number of processes.*6, shard=\(0, 4\)"):
        parts_of((0, 4), 6)


def parts_of(shard, batch_size):
    return batches(PAIRS, size=(32, 32), batch_size=batch_size, shard=shard)

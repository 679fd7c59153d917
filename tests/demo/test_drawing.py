"""The drawn street scenes are seeded, of any size, and not solved by colour and position."""

import functools

import numpy as np
import pytest

from keras_encnet.data.pairs import Pairs
from keras_encnet.demo.drawing import LABELS, PALETTE, scenes
from keras_encnet.demo.pixel_classifier import pixel_classifier_iou


@functools.cache
def drawn(count, seed):
    return list(scenes(count, seed=seed))


def test_a_scene_depends_only_on_its_seed_and_index():
    many, few = scenes(9, seed=4), scenes(5, seed=4)
    selected = [few[i] for i in (3, 1, 4)]
    for (image, mask), i in zip(selected, (3, 1, 4), strict=True):
        other_image, other_mask = many[i]
        assert (image == other_image).all() and (mask == other_mask).all()


def test_other_seeds_and_other_indices_give_other_scenes():
    masks = [mask for seed in (0, 1, 2) for _, mask in scenes(4, seed=seed)]
    for i, mask in enumerate(masks):
        for other in masks[:i]:
            assert (mask != other).mean() > 0.05


def test_scenes_are_pairs_with_labels_and_palette():
    pairs = scenes(3, seed=7)
    assert isinstance(pairs, Pairs) and len(pairs) == 3 and len(list(pairs)) == 3
    assert pairs.labels == LABELS and (pairs.palette == PALETTE).all()
    assert PALETTE.dtype == "uint8" and PALETTE.shape == (len(LABELS), 3)
    assert len(np.unique(PALETTE, axis=0)) == len(LABELS)
    assert pairs.where(2) == "scene 2 of seed 7"
    assert (pairs[-1][0] == pairs[2][0]).all()
    assert (pairs[1:][0][0] == pairs[1][0]).all()
    with pytest.raises(IndexError):
        pairs[3]


@pytest.mark.parametrize("size", [(128, 160), (97, 131), (32, 32), (160, 64), (201, 301)])
def test_any_size_is_filled_with_classes(size):
    for image, mask in scenes(3, seed=2, size=size):
        assert image.shape == (*size, 3) and image.dtype == np.uint8
        assert mask.shape == size and mask.dtype == np.uint8
        assert mask.max() < len(LABELS)
        assert (mask[-1] != LABELS.index("sky")).all()
    assert scenes(3, size=size).image_size(0) == size


def test_invalid_arguments_are_named():
    with pytest.raises(ValueError, match=r"`size` must have 32 pixels or more.*20×160"):
        scenes(3, size=(20, 160))
    with pytest.raises(ValueError, match="-1"):
        scenes(-1)


def test_every_class_is_in_most_scenes():
    masks = np.stack([mask for _, mask in drawn(90, 0)])
    for label, name in enumerate(LABELS):
        found = masks == label
        assert (found.mean((1, 2)) > 0.003).mean() >= 0.6, name
        assert found.mean() >= 0.015, name


def test_brightness_varies():
    brightness = [image.mean() for image, _ in drawn(90, 0)]
    assert max(brightness) > 2 * min(brightness)


def test_colour_and_position_are_not_enough():
    iou = pixel_classifier_iou(drawn(90, 0), drawn(30, 1), len(LABELS), pixels=40_000, steps=150)
    assert iou.shape == (len(LABELS),)
    assert 0.2 < iou.mean() < 0.45


def test_the_baseline_learns_from_colour_and_position():
    generator = np.random.default_rng(0)
    pairs = []
    for _ in range(12):
        image = generator.integers(0, 256, (32, 40, 3), "uint8")
        mask = (image[..., 0] > 127).astype("uint8")
        mask[16:] = 2
        pairs.append((image, mask))
    iou = pixel_classifier_iou(pairs[:8], pairs[8:], 3, pixels=8000, steps=100)
    assert (iou > 0.9).all()

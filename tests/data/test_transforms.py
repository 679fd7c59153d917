"""Augmentation follows mmsegmentation's recipe. Expected numbers are by hand."""

import numpy as np
import pytest

from keras_encnet.data.transforms import (
    augment,
    fit,
    pad,
    random_crop,
    random_flip,
    random_size,
)

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (60, 80, 3), dtype="uint8")
MASK = np.arange(60 * 80).reshape(60, 80) % 251


def generators(count):
    return [np.random.default_rng([7, i]) for i in range(count)]


@pytest.mark.parametrize(
    "height, width, resize, ratio, expected",
    [
        # mmcv.rescale_size: factor min(2048 / 683, 512 / 512); sides int(side * factor + 0.5)
        (512, 683, (2048, 512), 1.0, (512, 683)),
        (1024, 2048, (2048, 1024), 0.75, (768, 1536)),
        (200, 1000, (2048, 512), 1.0, (410, 2048)),  # limited by the long side: 2.048
        (1000, 200, (2048, 512), 1.0, (2048, 410)),
        (360, 480, None, 0.7, (252, 336)),
        (361, 481, None, 0.5, (181, 241)),  # 180.5 and 240.5 are rounded up
    ],
)
def test_random_sizes_equal_those_of_mmsegmentation(height, width, resize, ratio, expected):
    size = random_size(generators(1)[0], height, width, resize=resize, scale=(ratio, ratio))
    assert size == expected


@pytest.mark.parametrize(
    "height, width, resize, pixels, expected",
    [
        # PyTorch-Encoding 0.5: int(w * oh / h), where oh is the short side
        (375, 500, {"short": 520}, 520, (520, 693)),
        (500, 375, {"short": 520}, 260, (346, 260)),
        # since 1.0: int(h * long / w + 0.5)
        (375, 501, {"long": 520}, 1040, (778, 1040)),
        (501, 375, {"long": 520}, 780, (780, 584)),
    ],
)
def test_random_sides_equal_those_of_pytorch_encoding(height, width, resize, pixels, expected):
    ratio = pixels / 520
    size = random_size(generators(1)[0], height, width, resize=resize, scale=(ratio, ratio))
    assert size == expected


def test_random_sides_cover_the_range_with_both_ends():
    options = {"resize": {"short": 40}, "scale": (0.9, 1.1)}
    sides = {random_size(rng, 100, 300, **options)[0] for rng in generators(200)}
    assert sides == set(range(36, 45))


def test_the_rule_for_crops_is_adjustable():
    mask = np.zeros((64, 64), "uint8")
    mask[:, :20] = 1  # the other class has 44 / 64 = 0.69 of the pixels
    draws = []

    class Counting:
        def integers(self, high):
            draws.append(high)
            return 0

    def count(**options):
        draws.clear()
        random_crop(Counting(), mask, 64, 64, (64, 64), **options)
        return len(draws) // 2

    assert [count(max_class_share=share) for share in (0.68, 0.7, 1)] == [11, 1, 1]
    mask[:] = 1
    assert [count(max_class_share=share) for share in (0.99, 1)] == [11, 1]


def test_with_antialiasing_every_pixel_counts_and_masks_are_read_at_the_centres():
    # At a quarter, OpenCV's bilinear resizing reads the second and third of four columns.
    stripes = np.zeros((64, 128, 3), "uint8")
    stripes[:, ::4] = 200
    mask = np.arange(128, dtype="uint8")[None].repeat(64, axis=0)
    options = {"scale": (0.25, 0.25), "flip": 0, "photometric": False}
    for antialias, least, most, first in ((True, 37, 63, 2), (False, 0, 0, 0)):
        image, labels = augment(
            generators(1)[0], stripes, mask, (32, 32), antialias=antialias, **options
        )
        assert (labels[:16, 0] == first).all()
        assert ((least <= image[:16, 1:-1]) & (image[:16, 1:-1] <= most)).all()


def test_some_images_are_blurred():
    edge = np.zeros((40, 40, 3), "uint8")
    edge[:, 20:] = 200
    mask = np.zeros((40, 40), "uint8")
    options = {"scale": (1, 1), "flip": 0, "photometric": False, "blur": 0.25}
    blurred = [
        (augment(rng, edge, mask, (40, 40), **options)[0] != edge).any() for rng in generators(300)
    ]
    assert 0.15 < np.mean(blurred) < 0.32


def test_the_colour_of_the_padding_is_adjustable():
    image, _ = augment(
        generators(1)[0], IMAGE, MASK, (70, 100), scale=(1, 1), photometric=False, padding=(1, 2, 3)
    )
    assert (image[60:] == (1, 2, 3)).all() and (image[:, 80:] == (1, 2, 3)).all()


def test_ratios_cover_the_range():
    ratios = [random_size(rng, 1000, 1000)[0] / 1000 for rng in generators(400)]
    assert 0.5 <= min(ratios) < 0.52 and 1.98 < max(ratios) <= 2.0
    assert abs(np.mean(ratios) - 1.25) < 0.07


def test_image_and_mask_stay_aligned():
    mask_as_image = np.stack([MASK] * 3, axis=-1).astype("uint8")
    for rng in generators(20):
        image, mask = augment(
            rng, mask_as_image, MASK.astype("uint8"), (32, 48), scale=(1, 1), photometric=False
        )
        np.testing.assert_array_equal(image[..., 0], mask)


def test_crops_are_rejected_if_one_class_has_three_quarters():
    mask = np.zeros((100, 400), "uint8")
    mask[:, 300:] = 1  # most crops have only one class
    shares = []
    for rng in generators(60):
        _, crop = random_crop(rng, mask, 100, 400, (64, 64))
        share = max(np.bincount(crop.ravel())) / crop.size
        shares.append(share < 0.75)
    # One crop in ten is varied (left edge in 252 … 284 of 337), so eleven draws find one in 67 %.
    assert 0.5 < np.mean(shares) < 0.85
    without_redraws = [
        random_crop(rng, mask, 100, 400, (64, 64), redraws=0)[1].min() != 1 for rng in generators(9)
    ]
    assert any(without_redraws)


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_ignored_pixels_do_not_affect_the_choice_of_crops(dtype):
    mask = np.full((64, 64), 255, dtype)
    mask[:8] = 0
    draws = []

    class Counting:
        def integers(self, high):
            draws.append(high)
            return 0

    def count():
        draws.clear()
        random_crop(Counting(), mask, 64, 64, (64, 64))
        return len(draws) // 2

    assert count() == 11  # class 0 is alone: the first draw and ten more
    mask[:2] = 1  # 128 of 512 pixels that are not ignored: class 0 has exactly 75 %
    assert count() == 11
    mask[2, 0] = 1
    assert count() == 1


def test_image_and_mask_are_flipped_half_of_the_time():
    flipped = 0
    for rng in generators(300):
        image, mask = random_flip(rng, IMAGE, MASK)
        flipped += (mask == MASK[:, ::-1]).all() and (image == IMAGE[:, ::-1]).all()
    assert 0.42 < flipped / 300 < 0.58


@pytest.mark.parametrize("probability, least, most", [(0, 0, 0), (0.1, 8, 55), (1, 300, 300)])
def test_the_probability_of_flips_is_adjustable(probability, least, most):
    flipped = 0
    for rng in generators(300):
        _, mask = augment(rng, IMAGE, MASK, (60, 80), scale=(1, 1), flip=probability, photometric=False)
        flipped += (mask == MASK[:, ::-1]).all()
        assert (mask == MASK[:, ::-1]).all() or (mask == MASK).all()
    assert least <= flipped <= most


def recoloured(photometric, image=IMAGE):
    """The image as several seeds change it."""
    options = {"scale": (1, 1), "flip": 0, "photometric": photometric}
    mask = np.zeros(image.shape[:2], "uint8")
    return [augment(rng, image, mask, mask.shape, **options)[0].astype(int) for rng in generators(60)]


def changed(results, image=IMAGE):
    return [result for result in results if (result != image).any()]


def test_each_change_of_colours_can_be_alone():
    image = np.clip(IMAGE, 60, 190).astype("uint8")
    top, bottom = image.max(-1), image.min(-1)
    results = changed(recoloured({"brightness": 20}, image), image)
    assert 15 < len(results) < 45  # each change has a probability of 1/2
    for result in results:
        difference = np.unique(result - image)
        assert len(difference) == 1 and abs(difference[0]) <= 20
    results = changed(recoloured({"contrast": (0.5, 0.5)}, image), image)
    assert 15 < len(results) < 45
    assert all((result == image // 2).all() for result in results)
    results = changed(recoloured({"saturation": (0, 0)}, image), image)
    assert 15 < len(results) < 45
    assert all((result == top[..., None]).all() for result in results)  # in HSV, grey of the same value
    results = changed(recoloured({"hue": 9}, image), image)
    assert 15 < len(results) < 45
    for result in results:
        np.testing.assert_array_equal(result.max(-1), top)
        assert np.abs(result.min(-1) - bottom.astype(int)).max() <= 1  # HSV has 8 bits


def test_colours_can_be_left_alone_or_changed_by_nothing():
    nothing = {"brightness": 0, "contrast": (1, 1), "saturation": (1, 1), "hue": 0}
    for photometric in (False, {}, nothing):
        assert not changed(recoloured(photometric))


def test_true_stands_for_the_ranges_of_the_recipe():
    recipe = {"brightness": 32, "contrast": (0.5, 1.5), "saturation": (0.5, 1.5), "hue": 18}
    for usual, spelled in zip(recoloured(True), recoloured(recipe), strict=True):
        np.testing.assert_array_equal(usual, spelled)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"resize": 512}, r"`resize` must be \(long, short\).*512"),
        ({"resize": {"height": 512}}, r"`resize`.*'short': pixels.*height"),
        ({"resize": {"short": 512, "long": 512}}, "`resize`.*'long': 512"),
        ({"resize": {"short": 0}}, "`resize`.*'short': 0"),
        ({"antialias": 1}, "`antialias` must be True or False.*1"),
        ({"max_class_share": 0}, "`max_class_share` must be a number above 0.*0. 1 allows"),
        ({"max_class_share": 75}, "`max_class_share`.*75"),
        ({"blur": 2}, "`blur` must be a probability.*2"),
        ({"padding": 0}, "`padding` must be an RGB colour.*0"),
        ({"padding": (0, 0, 256)}, r"`padding`.*\(0, 0, 256\)"),
        ({"resize": (2048, 0)}, r"`resize`.*positive integers.*\(2048, 0\)"),
        ({"resize": (2048, 512.5)}, "`resize`.*512.5"),
        ({"scale": 1.0}, r"`scale` must be \(smallest, largest\).*1.0.*\(1, 1\)"),
        ({"scale": (2.0, 0.5)}, r"`scale`.*\(2.0, 0.5\)"),
        ({"scale": (0, 1)}, r"`scale`.*\(0, 1\)"),
        ({"scale": (1, float("nan"))}, "`scale`.*nan"),
        ({"scale": (1, float("inf"))}, "`scale`.*inf"),
        ({"scale": "12"}, "`scale`.*'12'"),
        ({"scale": None}, "`scale`.*None"),
        ({"flip": 1.5}, "`flip` must be a probability.*1.5"),
        ({"flip": True}, "`flip` must be a probability.*True"),
        ({"flip": "horizontal"}, "`flip`.*'horizontal'"),
        ({"photometric": 0.5}, "`photometric` must be True, False, or a dict.*0.5"),
        ({"photometric": None}, "`photometric`.*None"),
        ({"photometric": {"gamma": 2}}, "`photometric`.*'brightness'.*'hue'.*gamma"),
        ({"photometric": {"brightness": -1}}, r"`photometric\['brightness'\]`.*0 to 255.*-1"),
        ({"photometric": {"brightness": (0, 32)}}, r"`photometric\['brightness'\]`.*\(0, 32\)"),
        ({"photometric": {"contrast": 1.5}}, r"`photometric\['contrast'\]`.*two factors.*1.5"),
        ({"photometric": {"saturation": (-1, 1)}}, r"`photometric\['saturation'\]`.*0 up.*-1"),
        ({"photometric": {"contrast": (1.5, 0.5)}}, r"`photometric\['contrast'\]`.*\(1.5, 0.5\)"),
        ({"photometric": {"hue": 91}}, r"`photometric\['hue'\]`.*integer from 0 to 90.*91"),
        ({"photometric": {"hue": 0.1}}, r"`photometric\['hue'\]`.*0.1"),
    ],
)
def test_arguments_of_the_augmentation_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        augment(generators(1)[0], IMAGE, MASK, (32, 48), **options)


def test_padding_is_ignored_and_zero_after_normalization():
    image, mask = pad(IMAGE, MASK, (70, 100), ignore_index=254)
    np.testing.assert_array_equal(image[:60, :80], IMAGE)
    assert (mask[60:] == 254).all() and (mask[:, 80:] == 254).all()
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    assert np.abs((image[65, 90] - mean) / std).max() < 0.01


def test_fitting_keeps_the_aspect_ratio():
    image, mask = fit(IMAGE, MASK.astype("uint8"), (96, 40))  # 80 → 40, so 60 → 30
    assert image.shape == (96, 40, 3) and mask.shape == (96, 40)
    assert (mask[30:] == 255).all() and (mask[:30] != 255).all()


def test_crops_larger_than_the_image_are_padded():
    image, mask = augment(generators(1)[0], IMAGE, MASK.astype("uint8"), (256, 64), scale=(1, 1))
    assert image.shape == (256, 64, 3)
    assert (mask[60:] == 255).all() and (mask[:60] != 255).all()


def test_inputs_are_not_changed():
    image, mask = IMAGE.copy(), MASK.copy()
    for rng in generators(8):
        augment(rng, image, mask, (32, 48))
    np.testing.assert_array_equal(image, IMAGE)
    np.testing.assert_array_equal(mask, MASK)

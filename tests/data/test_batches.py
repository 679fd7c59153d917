"""Batches have new crops each epoch, are the same on every backend, and resume at any step."""

import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_encnet.data import Pairs, batches

RNG = np.random.default_rng(0)


def some_pairs(count, height=40, width=44):
    return [
        (RNG.integers(0, 256, (height, width, 3), dtype="uint8"), np.full((height, width), i))
        for i in range(count)
    ]


PAIRS = [(image, mask.astype("uint8")) for image, mask in some_pairs(9)]


def training(pairs=PAIRS, **options):
    return batches(pairs, **{"size": (32, 32), "batch_size": 2, "augment": True, "seed": 5} | options)


def stream(steps, **options):
    """Fingerprints of the batches of global steps, each read on its own."""
    data = training(**options)
    return [fingerprint(data.start_at(step)[0][0]) for step in steps]


def fingerprint(images):
    return int((images.astype("int64") * np.arange(1, images.size + 1).reshape(images.shape)).sum())


def recording_model():
    x = keras.Input((None, None, 3))
    model = keras.Model(x, keras.layers.Conv2D(9, 1)(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=255)
    model.compile("sgd", loss, run_eagerly=True)
    model.seen = []
    step = model.train_step

    def record(*args):  # JAX passes its state first
        model.seen.append(fingerprint(keras.ops.convert_to_numpy(args[-1][0])))
        return step(*args)

    model.train_step = record
    return model


@pytest.mark.parametrize("shuffle", [True, False])
def test_fit_gets_the_batches_in_their_order(shuffle):
    model, data = recording_model(), training()
    model.fit(data, epochs=2, verbose=0, shuffle=shuffle)
    model.fit(data, epochs=1, verbose=0, shuffle=shuffle)
    assert data.steps_per_epoch == 4 and data.step == 12
    assert model.seen == stream(range(12))
    assert len(set(model.seen)) == 12


@pytest.mark.parametrize("shuffle", [True, False])
def test_fit_resumes_in_the_middle_of_an_epoch(shuffle):
    model, data = recording_model(), training().start_at(5)
    model.fit(data, epochs=1, verbose=0, shuffle=shuffle)
    assert model.seen == stream([5, 6, 7]) and data.step == 8
    model.fit(data, epochs=1, verbose=0, shuffle=shuffle)
    assert model.seen == stream(range(5, 12))


@pytest.mark.slow
def test_the_same_batches_on_every_backend():
    # All random numbers are from NumPy: a process with another backend gets exactly the same.
    other = "jax" if keras.backend.backend() != "jax" else "torch"
    code = (
        "import numpy as np; from keras_encnet.data import batches\n"
        "pairs = [((np.arange(40 * 44 * 3) * (i + 3) % 256).reshape(40, 44, 3).astype('uint8'),"
        " np.full((40, 44), i, 'uint8')) for i in range(4)]\n"
        "data = batches(pairs, size=(32, 32), batch_size=2, augment=True, seed=1)\n"
        "print([int(images.astype('int64').sum()) for images, masks in data])"
    )
    runs = []
    for backend in (keras.backend.backend(), other):
        environment = os.environ | {"KERAS_BACKEND": backend}
        run = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True
        )
        if run.returncode and "No module named" in run.stderr:
            pytest.skip(f"{backend} is not installed")
        assert not run.returncode, run.stderr
        runs.append(run.stdout)
    assert runs[0] == runs[1]


def test_threads_do_not_change_the_batches():
    def without_threads(step):
        data = training()
        return [
            data._prepare(i, step // 4, place + 1)
            for place, i in list(enumerate(data._shuffled(step // 4)))[step % 4 * 2 :][:2]
        ]

    data = training()
    for step in (0, 1, 2, 3, 6):
        images, masks = data.start_at(step)[0]
        expected = without_threads(step)
        np.testing.assert_array_equal(images, np.stack([image for image, mask in expected]))
        np.testing.assert_array_equal(masks, np.stack([mask for image, mask in expected]))


def test_batches_do_not_depend_on_those_read_before():
    data = training()
    forwards = [fingerprint(data[i][0]) for i in (0, 1, 2, 3)]
    backwards = [fingerprint(data[i][0]) for i in (3, 2, 1, 0)]
    assert forwards == backwards[::-1] == stream(range(4))
    assert [fingerprint(images) for images, masks in data] == forwards


def test_an_epoch_has_every_pair_once_except_for_an_incomplete_batch():
    data = training(PAIRS, batch_size=2)
    classes = [{int(m[m != 255].min()) for m in masks} for images, masks in data]
    assert len(set().union(*classes)) == 8 and all(len(batch) == 2 for batch in classes)


def test_pairs_are_repeated_if_they_are_fewer_than_a_batch():
    images, masks = training(PAIRS[:3], batch_size=7)[0]
    found = [int(m[m != 255].min()) for m in masks]
    assert sorted(found)[:6:2] == [0, 1, 2] and min(found.count(i) for i in range(3)) == 2
    assert len({fingerprint(image) for image in images}) == 7  # each has its own crop


def test_seeds():
    assert stream([0], seed=5) == stream([0]) != stream([0], seed=6)
    unseeded = training(seed=None)
    assert unseeded.seed != training(seed=None).seed
    assert fingerprint(unseeded[0][0]) == stream([0], seed=unseeded.seed)[0]


def test_without_augmentation_all_pairs_are_kept_in_order():
    data = batches(PAIRS, size=(64, 48), batch_size=4)
    images, masks = zip(*data, strict=True)
    assert [len(batch) for batch in images] == [4, 4, 1]
    masks = np.concatenate(masks)
    assert [int(mask[0, 0]) for mask in masks] == list(range(9))
    assert masks.shape == (9, 64, 48) and masks.dtype == "uint8"
    # 40×44 fits into 64×48 by 12/11: 43.6 → 44 rows, and the rest is padding.
    assert (masks[:, 44:] == 255).all() and (masks[:, :44] != 255).all()
    assert (np.concatenate(images)[:, 44:] == (124, 116, 104)).all()


@pytest.mark.parametrize("augment", [True, False])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int64"])
def test_padding_has_the_value_that_the_model_ignores(augment, dtype):
    pairs = [(np.zeros((32, 64, 3), "uint8"), np.full((32, 64), 7, dtype))] * 2
    options = {"size": (64, 64), "batch_size": 2, "augment": augment, "scale": (1, 1), "seed": 0}
    data = batches(pairs, **options)
    assert set(np.unique(data[0][1])) == {7, 255} and data.ignore_index == 255
    data.use_ignore_index(65535)  # of a model with 300 classes, where 255 is a class
    masks = data[0][1]
    assert set(np.unique(masks)) == {7, 65535} and data.ignore_index == 65535
    assert masks.dtype == ("int32" if dtype == "uint8" else dtype)
    data.use_ignore_index(11)
    assert set(np.unique(data[0][1])) == {7, 11}
    given = batches(pairs, **options, ignore_index=65535)
    assert set(np.unique(given[0][1])) == {7, 65535}


def test_another_ignore_index_than_the_model_s_is_an_error():
    data = batches(PAIRS, size=(64, 64), batch_size=2, ignore_index=255)
    data.use_ignore_index(255)
    with pytest.raises(ValueError, match="`ignore_index`.*255 in `data.batches`, 11 in the model"):
        data.use_ignore_index(11)
    assert data.ignore_index == 255


def test_masks_of_one_data_set_have_one_dtype():
    # The second needs no padding.
    pairs = [(np.zeros((h, 64, 3), "uint8"), np.ones((h, 64), "uint8")) for h in (40, 64)]
    data = batches(pairs, size=(64, 64), batch_size=1, ignore_index=65535)
    assert [masks.dtype for images, masks in data] == ["int32"] * 2


def test_images_in_0_to_1_are_a_warning_here_too():
    pairs = [(image / 255, mask) for image, mask in PAIRS]
    with pytest.warns(UserWarning, match=r"scaled to \[0, 1\]"):
        batches(pairs[:1], size=(64, 64), batch_size=1)[0]


def test_images_that_are_not_resized_are_batched_by_size():
    sizes = [(40, 44), (40, 44), (40, 44), (48, 44), (40, 44), (40, 44)]
    pairs = [(np.zeros((*size, 3), "uint8"), np.zeros(size, "uint8")) for size in sizes]
    shapes = [images.shape[:3] for images, masks in batches(pairs, size=None, batch_size=2)]
    assert shapes == [(2, 40, 44), (1, 40, 44), (1, 48, 44), (2, 40, 44)]


def brighter(rng, image, mask):
    image += np.uint8(rng.integers(1, 100))  # also changes what it was given
    return image, mask


def test_a_transform_comes_before_the_augmentation():
    def quarter(rng, image, mask):
        assert isinstance(rng, np.random.Generator)
        assert image.dtype == "uint8" and image.shape == (40, 44, 3) and mask.shape == (40, 44)
        return image[:20, :22], mask[:20, :22]

    images, masks = training(transform=quarter, scale=(2, 2))[0]
    assert images.shape == (2, 32, 32, 3)
    assert (masks != 255).all()  # 20×22 is doubled, so that 32×32 can be cut out
    images, masks = training(transform=quarter, scale=(1, 1))[0]
    assert (masks[:, :20, :22] != 255).all() and (masks[:, 20:] == 255).all()
    assert (masks[:, :, 22:] == 255).all() and (images[:, 20:] == (124, 116, 104)).all()


def test_a_transform_in_the_place_of_the_augmentation():
    def own(rng, image, mask):
        top, left = rng.integers(9), rng.integers(13)
        return image[top : top + 32, left : left + 32], mask[top : top + 32, left : left + 32]

    off = {"scale": (1, 1), "flip": 0, "photometric": False}
    seen = []
    for epoch in range(2):
        for step in range(4):
            images, masks = training(transform=own, **off).read(4 * epoch + step)
            seen += masks[:, 0, 0].tolist()
            for image, label in zip(images, masks[:, 0, 0], strict=True):
                original = np.lib.stride_tricks.sliding_window_view(PAIRS[label][0], (32, 32, 3))
                assert (original == image).all(axis=(-1, -2, -3)).sum() == 1
    assert len(set(seen[:8])) == 8 and seen[:8] != seen[8:] and seen[:8] != sorted(seen[:8])


def test_a_transform_without_augmentation_keeps_the_order_and_repeats_itself():
    data = batches(PAIRS, size=None, batch_size=4, transform=brighter, seed=3)
    first, again = ([images for images, masks in data] for _ in range(2))
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(again))
    levels = []
    for image, (original, _) in zip(np.concatenate(first), PAIRS, strict=True):
        levels += np.unique(image - original).tolist()
    # From 1 to 99 each, one for each image, at random.
    assert len(levels) == 9 and 0 < min(levels) and len(set(levels)) > 4
    other = batches(PAIRS, size=None, batch_size=4, transform=brighter, seed=4)
    assert fingerprint(other[0][0]) != fingerprint(first[0])


def test_transforms_depend_on_seed_epoch_and_position_only():
    options = {"transform": brighter, "photometric": False}
    data = training(**options)
    forwards = [fingerprint(data[i][0]) for i in (0, 1, 2, 3)]
    backwards = [fingerprint(data[i][0]) for i in (3, 2, 1, 0)]
    assert forwards == backwards[::-1] == stream(range(4), **options)
    assert not set(forwards) & set(stream(range(4, 8), **options))
    assert not set(forwards) & set(stream(range(4), **options, scale=(1, 1)))


def test_what_a_transform_changes_in_place_is_a_copy():
    before = [image.copy() for image, mask in PAIRS]
    list(training(transform=brighter))
    assert all((image == PAIRS[i][0]).all() for i, image in enumerate(before))


def test_albumentations_fits_in(monkeypatch):
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask PyPI for a newer version
    A = pytest.importorskip("albumentations")

    def f(rng, image, mask):
        steps = [A.Affine(rotate=(-30, 30), fill_mask=255), A.GaussNoise(p=1), A.HorizontalFlip()]
        done = A.Compose(steps, seed=int(rng.integers(2**32)))(image=image, mask=mask)
        return done["image"], done["mask"]

    assert stream(range(4), transform=f) == stream(range(4), transform=f)
    assert len(set(stream(range(8), transform=f))) == 8
    images, masks = training(transform=f, scale=(1, 1), flip=0, photometric=False)[0]
    labels = [set(np.unique(mask).tolist()) - {255} for mask in masks]
    assert [len(found) for found in labels] == [1, 1]  # nearest neighbour: no labels in between
    assert images.shape == (2, 32, 32, 3) and (masks == 255).any()


@pytest.mark.parametrize(
    "changed, message",
    [
        (lambda image, mask: None, r"return \(image, mask\). Received: None.*return image, mask"),
        (lambda image, mask: {"image": image, "mask": mask}, r"Received: a dict.*result\[\"image\"\]"),
        (lambda image, mask: (image, mask, 1), r"return \(image, mask\). Received: a tuple of 3"),
        (lambda image, mask: image, r"return \(image, mask\). Received: a ndarray"),
        (lambda image, mask: (image / 255, mask), r"image.*uint8.*float64.*from 0 to 255.*normalizes"),
        (lambda image, mask: (image.transpose(2, 0, 1), mask), r"image.*\(3, 40, 44\).*channels last"),
        (lambda image, mask: (image[..., :1], mask), r"image.*uint8.*\(40, 44, 1\)"),
        (lambda image, mask: (image[:0], mask[:0]), r"image.*\(0, 44, 3\)"),
        (lambda image, mask: (image, mask * 1.0), r"mask.*integers.*float64.*nearest neighbour"),
        (lambda image, mask: (image, mask == 1), r"mask.*integers.*bool"),
        (lambda image, mask: (image, mask[..., None]), r"mask.*\(height, width\).*\(40, 44, 1\)"),
        (lambda image, mask: (image, mask[1:]), r"same size.*\(40, 44\) and \(39, 44\)"),
    ],
)
@pytest.mark.parametrize("augment", [True, False])
def test_what_a_transform_returns_is_checked(changed, message, augment):
    def spoil(rng, image, mask):
        return changed(image, mask)

    data = batches(PAIRS[:1], size=(32, 32), batch_size=1, augment=augment, transform=spoil)
    with pytest.raises(ValueError, match=f"{message}|$") as raised:
        data[0]
    assert re.search(message, str(raised.value)), raised.value
    assert "from `transform` (spoil) for pair 0" in str(raised.value)


def test_errors_of_a_transform_name_it_and_the_pair():
    def broken(rng, image, mask):
        raise KeyError("no such thing")

    with pytest.raises(KeyError, match="no such thing") as raised:
        batches(PAIRS[7:8], size=None, batch_size=1, transform=broken)[0]
    assert "`transform` (broken) for pair 0" in raised.value.__notes__[0]


def test_a_transform_must_keep_sizes_by_which_images_are_batched():
    data = batches(PAIRS, size=None, batch_size=2, transform=lambda rng, i, m: (i[:32], m[:32]))
    with pytest.raises(ValueError, match=r"keep the sizes.*\(32, 44\) instead of \(40, 44\).*pair 0"):
        data[0]


def test_tiny_data_sets_are_repeated():
    data = training(PAIRS[:3], batch_size=2, repeat=5)
    assert data.steps_per_epoch == len(data) == 7  # 15 pairs, of which the last is left over
    seen = np.concatenate([data.indices(step) for step in range(7)])
    assert sorted(seen[:12].tolist()) == sorted([0, 1, 2] * 4)  # four rounds over all pairs
    assert [sorted(seen[i : i + 3].tolist()) for i in range(0, 12, 3)] == [[0, 1, 2]] * 4
    assert len({fingerprint(images) for images, masks in data}) == 7


def test_a_repeated_data_set_resumes_where_it_stopped():
    options = {"pairs": PAIRS[:3], "repeat": 3}
    complete, model = stream(range(8), **options), recording_model()
    model.fit(training(**options).start_at(2), epochs=1, verbose=0)  # an epoch has four steps
    assert model.seen == complete[2:4]
    model.fit(training(**options).start_at(4), epochs=1, verbose=0)
    assert model.seen == complete[2:]


def test_reading_a_batch_does_not_move_the_training():
    data = training()
    expected = stream(range(6))
    data.on_epoch_begin()
    assert fingerprint(data[0][0]) == expected[0]
    assert fingerprint(data.read(5)[0]) == expected[5] and data.step == 0
    assert data.indices(5) == data.read(5)[1].min(axis=(1, 2)).tolist()
    assert [fingerprint(data[0][0]) for _ in range(3)] == expected[1:4]
    data.on_epoch_end()
    assert data.step == 4
    ordered = batches(PAIRS, size=(64, 48), batch_size=4)
    assert ordered.indices(2) == [8] and ordered.read(2)[1][0, 0, 0] == 8


def test_seeds_give_the_batches_that_they_always_gave():
    image = np.zeros((40, 44, 3), "uint8")
    pairs = [(image, np.arange(i, i + 40 * 44).reshape(40, 44) % 251) for i in range(9)]
    masks = [training(pairs).read(step)[1] for step in (0, 1, 5)]
    # Those of 0.1, before flips, colours and transforms could be chosen.
    assert [fingerprint(mask) for mask in masks] == [257023703, 261249937, 261208864]


def test_evaluate_and_predict_get_all_pairs_in_order():
    model = recording_model()
    model.compile(metrics=[keras.metrics.SparseCategoricalAccuracy()], run_eagerly=True)
    data = batches(PAIRS, size=(64, 48), batch_size=4)
    logits = model.predict(data, verbose=0)
    expected = model.predict(np.concatenate([images for images, masks in data]), verbose=0)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-4)
    model.evaluate(data, verbose=0)
    assert data.step == 0


def test_an_interrupted_epoch_is_a_warning():
    data = training(PAIRS, batch_size=1)
    with pytest.warns(UserWarning, match="after 4 of its 9 batches.*steps_per_epoch"):
        data.on_epoch_begin()
        for _ in range(4):
            data[0]
        data.on_epoch_end()
    assert data.step == 0


def test_errors_in_threads_reach_the_caller():
    def broken(i):
        raise ValueError("cannot read street.jpg")

    class Broken(Pairs):
        read = staticmethod(broken)

    with pytest.raises(ValueError, match="street.jpg"):
        training(Broken(PAIRS))[0]
    with pytest.raises(ValueError, match=r"\(40, 44\) and \(44, 40\).*in pair 0"):
        batches([(PAIRS[0][0], PAIRS[0][1].T)], size=None, batch_size=1)[0]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": (16, 32)}, "`size` must have 32 pixels or more.*16×32"),
        ({"size": (64, 64, 3)}, r"\(height, width\).*\(64, 64, 3\)"),
        ({"size": None}, "`size`.*augment=True.*None"),
        ({"size": (64.5, 64)}, r"`size` must be \(height, width\), two integers.*64.5"),
        ({"size": 64}, r"`size` must be \(height, width\), two integers.*64"),
        ({"batch_size": 0}, "`batch_size`.*0"),
        ({"batch_size": None}, "`batch_size` must be a positive integer.*None"),
        ({"batch_size": "a"}, "`batch_size` must be a positive integer.*'a'"),
        ({"batch_size": True}, "`batch_size` must be a positive integer.*True"),
        ({"seed": -1}, "`seed`.*-1"),
        ({"seed": 1.5}, "`seed` must be an integer from 0 up.*1.5"),
        ({"ignore_index": -1}, "`ignore_index`.*-1"),
        ({"ignore_index": "a"}, "`ignore_index`.*'a'"),
        ({"pairs": []}, "no pairs"),
        ({"augment": brighter}, "`augment` must be True or False.*as `transform`"),
        ({"augment": 1}, "`augment` must be True or False. Received: 1"),
        ({"transform": "flip"}, "`transform` must be a function.*'flip'"),
        ({"repeat": 0}, "`repeat` must be a positive integer.*0"),
        ({"repeat": 1.5}, "`repeat` must be a positive integer.*1.5"),
        ({"scale": (2, 0.5)}, r"`scale` must be \(smallest, largest\).*\(2, 0.5\)"),
    ],
)
def test_invalid_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        training(**options)


@pytest.mark.parametrize("step", [None, -1, 1.5, "a"])
def test_a_step_must_be_an_integer(step):
    with pytest.raises(
        ValueError, match="`step` must be an integer from 0 up. Received: .*first epoch"
    ):
        training(PAIRS).start_at(step)


@pytest.mark.parametrize(
    "options, value",
    [
        ({"resize": (2048, 512)}, r"\(2048, 512\)"),
        ({"scale": (0.75, 1.25)}, r"\(0.75, 1.25\)"),
        ({"flip": 1}, "1"),
        ({"photometric": {"hue": 9}}, "{'hue': 9}"),
        ({"repeat": 2}, "2"),
    ],
)
def test_arguments_without_effect_are_errors(options, value):
    (name,) = options
    with pytest.raises(ValueError, match=f"`{name}` must be left out without augment=True.*{value}"):
        training(augment=False, **options)
    off = {"resize": None, "scale": (1, 1), "flip": 0, "photometric": False, "repeat": 1}
    assert len(training(augment=False, **off)) == 5


def test_pairs_without_masks_are_an_error_that_says_what_to_do():
    class Unlabelled(Pairs):
        has_masks = False

    with pytest.raises(ValueError, match="must have masks.*9 images without.*segment"):
        batches(Unlabelled(PAIRS), size=None, batch_size=1)

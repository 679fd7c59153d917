"""Parts of a data set, and data sets joined: the pairs, their names and their sources."""

import numpy as np
import pytest

from keras_encnet.data.batching import batches
from keras_encnet.data.checks import check_masks
from keras_encnet.data.pairs import Pairs, random_split


def pair(value, size=(32, 40)):
    return np.full((*size, 3), value, "uint8"), np.full(size, value % 2, "uint8")


def numbered(count, first=0, **how):
    """Pairs whose images hold their number."""
    return Pairs([pair(first + i) for i in range(count)], **how)


def numbers(pairs):
    return [int(pairs.image(i)[0, 0, 0]) for i in range(len(pairs))]


def names(pairs):
    return [pairs.name(i) for i in range(len(pairs))]


class Photos(Pairs):
    """Images with names, and perhaps masks; it notes what is read."""

    labels = ("sky", "road")

    def __init__(self, *names, has_masks=True):
        self.names, self.has_masks, self.read_items = names, has_masks, []

    def __len__(self):
        return len(self.names)

    def read(self, i):
        image, mask = self.image(i), self.mask(i)
        return image, mask

    def image(self, i):
        self.read_items.append(("image", self.names[i]))
        return pair(i)[0]

    def mask(self, i):
        self.read_items.append(("mask", self.names[i]))
        return pair(i)[1] if self.has_masks else None

    def image_size(self, i):
        return 32, 40

    def where(self, i):
        return f"photos/{self.names[i]}.jpg"

    def files(self, i):
        return f"photos/{self.names[i]}.jpg", f"masks/{self.names[i]}.png" if self.has_masks else None

    def name(self, i):
        return self.names[i]


def test_a_subset_has_the_chosen_pairs_in_their_order():
    photos = Photos("a", "town/b", "c", "d")
    few = photos.subset(np.array([2, 0, -1]))
    assert names(few) == ["c", "a", "d"] and len(few) == 3 and few.labels == ("sky", "road")
    assert few.files(0) == ("photos/c.jpg", "masks/c.png") and few.where(1) == "photos/a.jpg"
    assert numbers(few.subset([1])) == [0] and numbers(few[::-1]) == [3, 0, 2]
    assert names(few.load()) == ["c", "a", "d"] and numbers(few.load()[1:]) == [0, 3]


@pytest.mark.parametrize(
    "indices, error, message",
    [
        ([0, 10], IndexError, "`indices` must be from 0 to 9.*Received: 10"),
        ([1, -11], IndexError, "Received: -11"),
        ([3, 2, -7], ValueError, "different. Received: 3 twice.*join them"),
        ([0.5], ValueError, "must be integers. Received: 0.5"),
        (np.arange(10) > 5, ValueError, "np.flatnonzero"),
    ],
)
def test_indices_that_no_subset_can_have(indices, error, message):
    with pytest.raises(error, match=message):
        numbered(10).subset(indices)


def test_the_image_is_read_without_its_mask():
    photos = Photos("a", "b", "c")
    part = (photos[1:] + photos[:1]).subset([1, 0])
    assert numbers(part) == [2, 1]
    assert photos.read_items == [("image", "c"), ("image", "b")]
    photos.read_items.clear()
    part.mask(0)
    assert photos.read_items == [("mask", "c")]
    assert part.image_size(0) == (32, 40) and len(photos.read_items) == 1


def test_joined_pairs_come_one_after_the_other():
    joined = numbered(2) + numbered(3, 10, labels=["sky", "road"], palette=np.eye(2, 3, dtype=int))
    assert numbers(joined) == [0, 1, 10, 11, 12] and joined.labels == ("sky", "road")
    assert joined.palette.tolist() == [[1, 0, 0], [0, 1, 0]]
    assert numbers(joined[1:4]) == [1, 10, 11] and numbers(joined.load()) == numbers(joined)
    np.testing.assert_array_equal(joined[-1][1], pair(12)[1])
    assert [joined.where(i) for i in (1, 2)] == ["pair 1 of part 1", "pair 0 of part 2"]
    with pytest.raises(IndexError):
        joined[5]


def test_names_stay_unique_after_joining():
    assert names(numbered(12))[::11] == ["000000", "000011"]
    assert names(Photos("a", "b") + Photos("c")) == ["a", "b", "c"]
    assert names(Photos("a", "b") + Photos("b")) == ["1/a", "1/b", "2/b"]
    assert names(numbered(1) + numbered(1) + numbered(2)) == [
        "1/000000",
        "2/000000",
        "3/000000",
        "3/000001",
    ]
    whole = numbered(6)
    assert names(whole[4:] + whole[:2]) == ["000004", "000005", "000000", "000001"]
    assert names((whole + whole).load()[5:7]) == ["1/000005", "2/000000"]


def test_what_cannot_be_joined():
    with pytest.raises(ValueError, match="same labels. Received: label 1 is 'road' and 'car'"):
        numbered(1, labels=["sky", "road"]) + numbered(1, labels=["sky", "car"])
    with pytest.raises(ValueError, match="same labels. Received: 2 labels and 1"):
        numbered(1, labels=["sky", "road"]) + numbered(1, labels=["sky"])
    with pytest.raises(ValueError, match="same palette. Received: different colours"):
        numbered(1, palette=[[1, 2, 3]]) + numbered(1, palette=[[1, 2, 4]])
    with pytest.raises(ValueError, match="all have masks, or none. Received: <1 images with masks, 2"):
        Photos("a") + Photos("b", has_masks=False)
    with pytest.raises(TypeError):
        numbered(1) + [pair(0)]


@pytest.mark.parametrize("shares", [(0.7, 0.2, 0.1), (70, 20, 10), np.array([0.7, 0.2, 0.1])])
def test_a_random_split_has_every_pair_once(shares):
    parts = random_split(numbered(100, labels=["a", "b"]), shares, seed=3)
    assert [len(part) for part in parts] == [70, 20, 10]
    chosen = [numbers(part) for part in parts]
    assert sorted(sum(chosen, [])) == list(range(100))
    assert all(part == sorted(part) for part in chosen) and chosen[2] != list(range(90, 100))
    assert parts[1].labels == ("a", "b") and [int(name) for name in names(parts[1])] == chosen[1]


def test_the_seed_decides_on_the_split():
    first, again = (random_split(numbered(50), (0.5, 0.5), seed=1) for _ in range(2))
    assert numbers(first[0]) == numbers(again[0])
    assert numbers(first[0]) != numbers(random_split(numbered(50), (0.5, 0.5), seed=2)[0])


def test_one_share_is_that_of_the_second_part():
    for shares in (0.2, np.float32(0.2), 20):
        assert [len(part) for part in random_split(numbered(100), shares)] == [80, 20]
    parts, both = (random_split(numbered(100), shares) for shares in (0.2, (0.8, 0.2)))
    assert [numbers(part) for part in parts] == [numbers(part) for part in both]


def test_shares_are_rounded_to_whole_pairs():
    for count in range(3, 40):
        parts = random_split(list(numbered(count)), [1 / 3] * 3)
        sizes = [len(part) for part in parts]
        assert sum(sizes) == count and max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    "shares, message",
    [
        ((1,) * 11, "must be 10 pairs together"),
        ((1 / 11,) * 11, "Make fewer parts"),
        (1.5, r"positive.*Received: \(-0.5, 1.5\)"),
        (10, r"positive.*Received: \(0, 10\)"),
        (0.01, r"Received: shares \(0.99, 0.01\) of 10 pairs. Give each part 0.1 or more"),
        ((), r"positive.*Received: \(\)"),
        ((0.5, 1), "positive: fractions such as"),
        ((1.5, -0.5), "positive"),
        ((True, True), "positive"),
        (("a",), "positive"),
        ((float("nan"),), "positive"),
        ((0.8, 0.1), "must be 1 together. Received: .*together 0.9. Add a part"),
        ((5, 6), "must be 10 pairs together.*together 11"),
        (
            (0.99, 0.01),
            "Every part must have one pair or more. .* of 10 pairs. Give each part 0.1 or more",
        ),
    ],
)
def test_shares_that_no_split_can_have(shares, message):
    with pytest.raises(ValueError, match=message):
        random_split(numbered(10), shares)
    with pytest.raises(ValueError, match="`seed` must be an integer from 0 up"):
        random_split(numbered(10), (0.5, 0.5), seed=None)


def test_pairs_without_masks_say_so_wherever_masks_are_needed():
    photos = Photos("a", "b", "c", has_masks=False)
    views = photos, photos[1:], photos.subset([2]), photos + photos, photos.load()
    message = "must have masks. Received: <. images without masks.*photos/[abc].jpg first.*published"
    for view in views:
        assert not view.has_masks and "without masks, 2 classes" in repr(view)
        assert view[0][1] is None and view.mask(0) is None and view.image(0).shape == (32, 40, 3)
        with pytest.raises(ValueError, match=message):
            check_masks(view, 2)
        with pytest.raises(ValueError, match="must have masks.*Received: "):
            batches(view, size=(32, 32), batch_size=1)[0]

"""Batches that processes prepare are those that threads prepare."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import keras
import numpy as np
import pytest

from keras_encnet.data import batches

pytestmark = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason="needs processes that are forked"
)

PAIRS = [
    (np.random.default_rng(i).integers(0, 256, (40, 50, 3), "uint8"), np.full((40, 50), i, "uint8"))
    for i in range(7)
]
OPTIONS = {"size": (36, 44), "batch_size": 2, "augment": True, "seed": 3}


def same(one, other):
    return all(np.array_equal(a, b) and a.dtype == b.dtype for a, b in zip(one, other, strict=True))


def test_batches_are_the_same_in_any_order():
    threads, processes = batches(PAIRS, **OPTIONS), batches(PAIRS, **OPTIONS, workers=2)
    for step in (0, 1, 2, 3, 4, 20, 21, 1, 30, 2):
        assert same(threads.start_at(step)[0], processes.start_at(step)[0]), step


def test_a_batch_is_kept_when_others_follow():
    data = batches(PAIRS, **OPTIONS, workers=1)
    first = data[0]
    kept = [part.copy() for part in first]
    for step in range(1, 9):
        data.start_at(step)[0]
    assert same(first, kept)


def test_masks_of_32_bits_and_the_padding_of_a_model():
    pairs = [(np.zeros((40, 32, 3), "uint8"), np.full((40, 32), 700, "int32"))]
    data = batches(pairs, size=(40, 40), batch_size=1, workers=1)
    data.use_ignore_index(999)
    assert sorted(set(data[0][1].ravel().tolist())) == [700, 999]


def test_a_function_of_ones_own_needs_no_module():
    def brighter(rng, image, mask):
        return image // 2 + np.uint8(rng.integers(100)), mask

    own = {"transform": brighter, **OPTIONS}
    assert same(batches(PAIRS, **own)[0], batches(PAIRS, **own, workers=2)[0])


def test_fit_gets_the_same_batches():
    def weights(**options):
        data = batches(PAIRS, **OPTIONS, **options)
        keras.utils.set_random_seed(0)
        images = keras.Input((36, 44, 3))
        outputs = keras.layers.Dense(1)(keras.layers.Rescaling(1 / 255)(images))
        model = keras.Model(images, outputs)
        model.compile("sgd", "mse")
        model.fit(data, epochs=2, shuffle=False, verbose=0)
        return model.get_weights()[0]

    np.testing.assert_array_equal(weights(), weights(workers=2))


def test_opencv_has_no_threads_of_its_own_there():
    # They are not forked, and what they hold at that moment would stay locked for ever.
    cv2 = pytest.importorskip("cv2")
    here = cv2.getNumThreads()

    def threads(rng, image, mask):
        return np.full_like(image, cv2.getNumThreads()), mask

    data = batches(PAIRS, size=(40, 50), batch_size=2, transform=threads, workers=2)
    assert data[0][0].max() == 1
    assert cv2.getNumThreads() == here


def test_errors_name_the_pair():
    pairs = [*PAIRS, (np.zeros((40, 50, 3), "uint8"), np.zeros((9, 9), "uint8"))]
    data = batches(pairs, size=(36, 44), batch_size=8, workers=2)
    with pytest.raises(ValueError, match="same size.*|turned alike.*|9, 9"):
        data[0]


def test_bad_numbers_of_workers():
    with pytest.raises(ValueError, match="`workers` must be"):
        batches(PAIRS, **OPTIONS, workers=-1)
    with pytest.raises(ValueError, match="`size` must be given with `workers`"):
        batches(PAIRS, size=None, batch_size=2, workers=2)


PROGRAM = """
import multiprocessing, signal, time
import numpy as np
from keras_encnet.data.workers import Workers
signal.signal(signal.SIGINT, signal.default_int_handler)  # one in the background ignores it
workers = Workers(lambda: None, 2, (32, 32), batch_size=1, ahead=1)
print(*(child.pid for child in multiprocessing.active_children()), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(how):
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        children = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(children) == 2
        parent.send_signal(how)
        parent.wait(20)
    until = time.monotonic() + 10
    while alive := [pid for pid in children if os.path.exists(f"/proc/{pid}/fd")]:
        assert time.monotonic() < until, alive
        time.sleep(0.1)

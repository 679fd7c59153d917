"""The benchmark of data counts what it says, and its files are like ADE20K's."""

import importlib
import pathlib

import numpy as np
import pytest

SCRIPTS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def data(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("data")


def test_rates_are_compared_per_core_and_with_each_other(data, capsys):
    data.show(
        {
            ("ours", 1): [50, 60, 70],
            ("ours", 2): [108, 108, 108],
            ("mmseg", 1): [40, 30, 30],
            ("mmseg", 2): [48, 54, 60],
        }
    )
    printed = capsys.readouterr().out
    assert "60.0 (50.0 to 70.0)" in printed and "keras-encnet on 2: 1.80 times its rate on 1" in printed
    assert "keras-encnet on 1: 2.00 times the rate of mmsegmentation" in printed
    assert "keras-encnet on 2: 2.00 times the rate of mmsegmentation" in printed


def test_drawn_files_have_several_classes_and_unlabelled_pixels(data):
    image, mask = data.drawn(np.random.default_rng(0), (683, 512), classes=9)
    assert image.size == mask.size == (683, 512)
    counts = np.bincount(np.asarray(mask).ravel())
    assert (counts > 0).sum() >= 5 and counts.max() < 0.75 * counts.sum()


@pytest.mark.slow
def test_our_side_prepares_the_images(data, monkeypatch, tmp_path):
    monkeypatch.setattr(data, "COUNT", 4)
    options = type("Options", (), {"images": 8, "mmseg": None})
    side = data.start("ours", 1, data.drawn_ade20k(tmp_path), options)
    reply = side.ask()
    side.close()
    assert reply["images_per_second"] == pytest.approx(8 / reply["seconds"])

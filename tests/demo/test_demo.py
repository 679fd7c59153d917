"""The demo learns the street scenes, and says first how long it takes."""

import re
import types

import numpy as np
import pytest
from PIL import Image

from keras_encnet import EncNet
from keras_encnet.demo import demo


def estimate(monkeypatch, capsys, step, pace):
    """What `Estimate` prints in a training of 100 steps that starts at `step`."""
    now = [0.0]
    monkeypatch.setattr(demo.time, "monotonic", lambda: now[0])
    callback = demo.Estimate(types.SimpleNamespace(step=step), steps=100)
    for batch in range(30):
        now[0] += 60 if batch == 0 else pace
        callback.on_train_batch_end(batch)
    return capsys.readouterr().out


def test_the_time_is_estimated_from_the_pace_and_not_from_compilation(monkeypatch, capsys):
    monkeypatch.setattr(demo, "STEPS_AFTERWARDS", 25)
    # After step 25 of 100 there are 75, and 25 more: 100 of half a second each.
    assert estimate(monkeypatch, capsys, 0, 0.5) == "\nAbout 50 seconds to go at this pace.\n"


def test_a_resumed_demo_counts_what_is_left(monkeypatch, capsys):
    monkeypatch.setattr(demo, "STEPS_AFTERWARDS", 0)
    assert "About 70 seconds" in estimate(monkeypatch, capsys, 40, 2.0)


@pytest.mark.slow
def test_the_demo_keeps_its_promises(tmp_path, capsys):
    result = demo.run(tmp_path)
    printed = capsys.readouterr().out
    assert printed.index("two cores") < printed.index("Drawing")
    assert "seconds to go" in printed
    assert result.miou >= 0.75
    report = (tmp_path / "report.txt").read_text("utf-8")
    baseline = float(re.search(r"single pixels: ([\d.]+)", report)[1])
    assert 0.3 < baseline < result.miou - 0.25
    picture = np.asarray(Image.open(tmp_path / "scenes.png"))
    assert picture.std() > 20
    assert EncNet.from_preset(tmp_path / "model").labels == demo.scenes(1).labels

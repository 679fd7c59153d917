"""Videos go in and come out, through PyAV and through OpenCV; each also reads what the other wrote."""

import errno
from fractions import Fraction

import keras
import numpy as np
import pytest

from keras_encnet import EncNet
from keras_encnet.inference import video
from keras_encnet.inference.video import LIBRARIES, segment_video

FRAMES = 5


@pytest.fixture(params=["av", "cv2"])
def library(request, monkeypatch):
    """Only one of the two packages is there."""
    pytest.importorskip(request.param)
    monkeypatch.setattr(video, "LIBRARIES", {request.param: LIBRARIES[request.param]})
    return LIBRARIES[request.param]


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    labels = ["sky", "road", "car"]
    return EncNet("resnet18", 3, labels=labels, width=0.125, head_channels=8, num_codes=4)


def write_clip(path, library):
    with library.write(str(path), (48, 64), Fraction(10)) as write:
        for i in range(FRAMES):
            write(np.full((48, 64, 3), (40 * i, 90, 160), "uint8"))


def read_clip(path, library):
    with library.read(str(path)) as found:
        return list(found.frames), found.rate


def test_a_video_is_segmented_frame_by_frame(model, library, tmp_path):
    write_clip(tmp_path / "clip.mp4", library)
    seen = []
    areas = segment_video(
        model, tmp_path / "clip.mp4", tmp_path / "out.mp4", progress=lambda *place: seen.append(place)
    )
    frames, rate = read_clip(tmp_path / "out.mp4", library)
    assert len(frames) == FRAMES and rate == 10 and frames[0].shape == (48, 64, 3)
    assert seen == [(i + 1, FRAMES) for i in range(FRAMES)]
    assert sum(areas.values()) == pytest.approx(1) and set(areas) <= set(model.labels)
    originals, _ = read_clip(tmp_path / "clip.mp4", library)
    expected = [model.segment(frame) for frame in originals]
    for frame, result in zip(frames, expected, strict=True):
        # The codec is lossy.
        overlay = np.asarray(result.overlay(legend=False)).astype(int)
        assert np.abs(frame - overlay).mean() < 12
    mean = np.mean([result.areas().get("road", 0) for result in expected])
    assert areas.get("road", 0) == pytest.approx(mean, abs=0.02)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "out.mp4"]


def test_colours_and_their_order_survive(library, tmp_path):
    write_clip(tmp_path / "clip.mp4", library)
    for i, frame in enumerate(read_clip(tmp_path / "clip.mp4", library)[0]):
        assert np.abs(frame.mean(axis=(0, 1)) - (40 * i, 90, 160)).max() < 8


def test_both_libraries_read_each_other_s_files(tmp_path):
    for package in LIBRARIES:
        pytest.importorskip(package)
    write_clip(tmp_path / "clip.mp4", LIBRARIES["av"])
    frames = [read_clip(tmp_path / "clip.mp4", each)[0] for each in LIBRARIES.values()]
    assert len(frames[0]) == len(frames[1]) == FRAMES
    assert np.abs(np.array(frames[0], int) - frames[1]).mean() < 3


def test_a_file_that_is_no_video_leaves_nothing_behind(model, library, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"not a video" * 100)
    with pytest.raises(ValueError, match="Cannot read the video '.*clip.mp4'"):
        segment_video(model, tmp_path / "clip.mp4", tmp_path / "out.mp4")
    with pytest.raises(FileNotFoundError, match="There is no video file '.*none.mp4'"):
        segment_video(model, tmp_path / "none.mp4", tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_frame_that_fails_leaves_nothing_behind(model, library, tmp_path):
    write_clip(tmp_path / "clip.mp4", library)

    def stop(number, count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        segment_video(model, tmp_path / "clip.mp4", tmp_path / "out.mp4", progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_without_a_library_the_message_has_the_command_that_installs_one(model, monkeypatch, tmp_path):
    (tmp_path / "clip.mp4").touch()
    monkeypatch.setattr(video, "LIBRARIES", {"no_such_package": None})
    with pytest.raises(ImportError, match=r"pip install 'keras-encnet\[video\]'"):
        segment_video(model, tmp_path / "clip.mp4", tmp_path / "out.mp4")


def test_confidence_is_refused_in_words(model, tmp_path):
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(ValueError, match="`confidence` must be False for a video. Received: True"):
        segment_video(model, tmp_path / "clip.mp4", tmp_path / "out.mp4", confidence=True)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_video_that_pyav_cannot_write_is_an_error_of_the_system(model, monkeypatch, tmp_path):
    av = pytest.importorskip("av")
    monkeypatch.setattr(video, "LIBRARIES", {"av": LIBRARIES["av"]})
    write_clip(tmp_path / "clip.mp4", LIBRARIES["av"])

    def fail(frame, **_):
        raise av.error.ExternalError(errno.EIO, "generic error in an external library")

    monkeypatch.setattr(av.VideoFrame, "from_ndarray", fail, raising=True)
    with pytest.raises(OSError, match="Cannot write the video 'out.mp4': .*external library"):
        segment_video(model, tmp_path / "clip.mp4", tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_video_that_ends_early_is_a_warning_of_opencv(tmp_path):
    """An AVI has the number of its frames in its header."""
    cv2 = pytest.importorskip("cv2")
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for i in range(FRAMES):
        writer.write(np.random.default_rng(i).integers(0, 256, (48, 64, 3), "uint8"))
    writer.release()
    assert len(read_clip(path, LIBRARIES["cv2"])[0]) == FRAMES
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match=rf"clip.avi' ends after \d of {FRAMES} frames"):
        frames, _ = read_clip(path, LIBRARIES["cv2"])
    assert 0 < len(frames) < FRAMES

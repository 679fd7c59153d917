"""Writes `evaluation.npz`: the fake network evaluated in mmsegmentation's own pipeline, from files.

    <python of mmsegmentation's environment> tests/inference/make_evaluation.py

benchmarks/README.md describes the environment. Images are read and resized by OpenCV.
"""

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import fake_net as fake
import numpy as np
from PIL import Image

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
CLASSES, VOID = 5, 255
SIZE = (83, 131)  # of each image: not a multiple of anything
WAYS = {  # `align_corners`, and options of `segment`
    "whole": (False, {"resize": (400, 100)}),
    "smaller": (True, {"resize": (200, 50)}),
    "slide": (True, {"resize": (257, 129), "window": 65, "stride": 43}),
    "ratios and flip": (False, {"ratios": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75), "flip": True}),
}


def examples():
    """Three images with masks: `uint8`, with void pixels and without the last class."""
    height, width = SIZE
    for i in range(3):
        large = fake.image(2 * height + 4, 2 * width + 4)
        image = np.roll(large[i::2, i::2][:height, :width], 17 * i, axis=1)
        mask = (image[..., 0] // 64).astype("uint8")
        mask[image[..., 1] < 20] = VOID
        yield image, mask


def segmentor():
    """mmsegmentation's segmentor around the fake network, which takes pixels as they are."""
    import torch
    import torch.nn.functional as F
    from mmseg.models.segmentors import EncoderDecoder
    from mmseg.models.segmentors.base import BaseSegmentor

    class Fake(EncoderDecoder):
        def __init__(self):
            preprocessor = dict(type="SegDataPreProcessor", bgr_to_rgb=True)
            BaseSegmentor.__init__(self, data_preprocessor=preprocessor)
            self.out_channels, self.align_corners, self.test_cfg = CLASSES, False, Settings()
            self.decode_head = SimpleNamespace(num_classes=CLASSES, align_corners=False)
            self.auxiliary_head = SimpleNamespace()

        def encode_decode(self, inputs, metas):
            coarse = fake.coarse(inputs.permute(0, 2, 3, 1).numpy(), CLASSES)
            logits = torch.from_numpy(coarse).permute(0, 3, 1, 2)
            size = inputs.shape[2:]
            return F.interpolate(logits, size, mode="bilinear", align_corners=self.align_corners)

    class Settings(dict):
        __getattr__ = dict.__getitem__

    return Fake().eval()


def main():
    sys.path.insert(0, str(BENCHMARKS))
    from mmseg_evaluation import Evaluator
    from mmseg_reference import stub_mmcv_extensions

    stub_mmcv_extensions()
    from mmseg.utils import register_all_modules

    register_all_modules()
    evaluator = Evaluator()
    evaluator.model = segmentor()
    arrays = {}
    with tempfile.TemporaryDirectory() as here:
        images, masks = [], []
        for i, (image, mask) in enumerate(examples()):
            for files, kind, array in ((images, "image", image), (masks, "mask", mask)):
                files.append(f"{here}/{kind}{i}.png")
                Image.fromarray(array).save(files[-1])
        for name, (corners, how) in WAYS.items():
            side, step = how.get("window"), how.get("stride")
            way = {
                "align_corners": corners,
                "resize": how.get("resize"),
                "window": side and (side, side),
                "stride": step and (step, step),
                "ratios": how.get("ratios"),
                "flip": how.get("flip", False),
                "encoding": None,
            }
            reply = evaluator.evaluate(images, masks, VOID, way, save=f"{here}/labels.npy")
            arrays[f"{name}/labels"] = np.load(f"{here}/labels.npy")
            for figure in ("IoU", "Acc", "Dice", "aAcc"):
                arrays[f"{name}/{figure}"] = np.array(reply[figure])
    np.savez_compressed(Path(__file__).with_name("evaluation.npz"), **arrays)


if __name__ == "__main__":
    main()

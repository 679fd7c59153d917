"""Writes `golden.npz`: results of the reference code bases for the fake network's coarse logits.

They are mmsegmentation 1.2.2 (with its own scales, and with those of 0.x), torch-encoding 1.2.1 and
`F.interpolate`.

    <python of the oracle's environment> tests/inference/make_golden.py <folder of oracles.py>

`oracles.py` describes its environment.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

if __name__ == "__main__":  # pytest imports this file to look for doctests, without PyTorch
    import torch
    import torch.nn.functional as F

    sys.path[:0] = [str(Path(__file__).parent), sys.argv[1]]
    import fake_net as fake
    import oracles

CLASSES = 5
RATIOS = (0.75, 1.0, 1.6)
VIEWS = {}  # the resized images, so that tests of the later steps need no OpenCV
MEAN, STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])


def logits_of(images):
    """NCHW pixels to NCHW coarse logits."""
    return torch.from_numpy(fake.coarse(images.permute(0, 2, 3, 1).numpy(), CLASSES)).permute(
        0, 3, 1, 2
    )


class Mmseg:
    """The inference methods of mmsegmentation's segmentor, on the fake network."""

    def __init__(self, align_corners, window=None, stride=None):
        from mmseg.models.segmentors import EncoderDecoder
        from mmseg.models.segmentors.seg_tta import SegTTAModel

        mode = "slide" if window else "whole"
        self.stub = SimpleNamespace(
            align_corners=align_corners,
            out_channels=CLASSES,
            test_cfg=SimpleNamespace(
                mode=mode, crop_size=window, stride=stride, get=lambda key, default: mode
            ),
            decode_head=SimpleNamespace(threshold=None),
            encode_decode=lambda x, metas: F.interpolate(
                logits_of(x), x.shape[2:], mode="bilinear", align_corners=align_corners
            ),
        )
        for name in ("slide_inference", "whole_inference"):
            method = getattr(EncoderDecoder, name)
            setattr(self.stub, name, lambda *a, method=method: method(self.stub, *a))
        self.inference, self.post = EncoderDecoder.inference, EncoderDecoder.postprocess_result
        self.merge = SegTTAModel.merge_preds

    def sample(self, image, size, flip):
        from mmseg.structures import SegDataSample

        pixels = image[:, ::-1].copy() if flip else image
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
        meta = {"ori_shape": size, "img_shape": x.shape[2:], "flip": flip, "img_path": ""}
        meta["flip_direction"] = "horizontal"
        logits = self.inference(self.stub, x, [dict(meta)])
        return self.post(self.stub, logits, [SegDataSample(metainfo=meta)])[0]


def mmseg(align_corners, resize=None, window=None, stride=None, ratios=None, flip=False, old=False):
    """(scores, labels): logits of one view, or the mean softmax of several."""
    import mmcv
    from mmcv.transforms import Resize

    image = fake.image()
    net = Mmseg(align_corners, window, stride)
    if ratios is None:
        views = [mmcv.imrescale(image, resize) if resize else image]
    elif old:
        bounds = [tuple(int(side * ratio) for side in resize) for ratio in ratios]
        views = [mmcv.imrescale(image, bound) for bound in bounds]
    else:
        make = [Resize(scale_factor=ratio, keep_ratio=True) for ratio in ratios]
        views = [resize({"img": image})["img"] for resize in make]
    size = image.shape[:2]
    VIEWS.update({f"view/{v.shape[0]}x{v.shape[1]}": torch.from_numpy(v) for v in views})
    samples = [net.sample(v, size, f) for v in views for f in (False, True)[: 1 + flip]]
    if len(samples) == 1:
        sample = samples[0]
        scores = sample.seg_logits.data
    else:
        scores = torch.stack([s.seg_logits.data.softmax(0) for s in samples]).mean(0)
        module = SimpleNamespace(out_channels=CLASSES)
        net.merge(SimpleNamespace(module=module), [samples])
        sample = samples[-1]
    return scores, sample.pred_sem_seg.data.squeeze()


def encoding(base, crop, ratios, flip):
    oracles.pytorch_encoding_model(3, "resnet50s")  # makes torch-encoding importable
    from encoding.models.sseg.base import MultiEvalModule

    torch.Tensor.cuda = lambda self, *args: self

    class Net(torch.nn.Module):
        base_size, crop_size = base, crop
        mean, std = list(MEAN / 255), list(STD / 255)
        _up_kwargs = {"mode": "bilinear", "align_corners": True}

        def evaluate(self, x):
            pixels = x.permute(0, 2, 3, 1).double().numpy() * STD + MEAN
            logits = torch.from_numpy(fake.coarse(pixels, CLASSES)).permute(0, 3, 1, 2)
            return F.interpolate(logits, x.shape[2:], **self._up_kwargs)

    x = torch.from_numpy((fake.image() - MEAN) / STD).permute(2, 0, 1)[None].float()
    scores = MultiEvalModule(Net(), CLASSES, flip=flip, scales=list(ratios)).forward(x)[0]
    return scores, scores.argmax(0)


def main():
    oracles.mmseg_config("encnet_r50-d8_4xb4-80k_ade20k-512x512")  # makes mmseg importable
    golden = {}
    small = torch.from_numpy(fake.coarse(fake.image(56, 72)[None], 2)).permute(0, 3, 1, 2)
    golden["small"] = small[0].permute(1, 2, 0)
    for corners in (False, True):
        for size in ((23, 31), (56, 72), (4, 1), (7, 9)):
            resized = F.interpolate(small, size, mode="bilinear", align_corners=corners)
            golden[f"interpolate/{corners}/{size[0]}x{size[1]}"] = resized[0].permute(1, 2, 0)
    slide = {"window": (48, 64), "stride": (30, 41)}
    cases = {
        "whole": {},
        "resized": {"resize": (200, 80)},
        "slide": {"resize": (200, 80), **slide},
        "flip": {"resize": (200, 80), "flip": True},
        "ratios": {"ratios": RATIOS, "flip": True},
        "ratios_slide": {"ratios": RATIOS, "flip": True, **slide},
        "ratios_old": {"resize": (200, 80), "ratios": RATIOS, "flip": True, "old": True},
    }
    results = {
        f"{name}/{corners}": mmseg(corners, **case)
        for name, case in cases.items()
        for corners in (False, True)
    }
    for name, flip, ratios in (("one", False, (1.0,)), ("all", True, (0.5, *RATIOS))):
        results[f"encoding_{name}/True"] = encoding(100, 64, ratios, flip)
    for name, (scores, labels) in results.items():
        golden[f"{name}/scores"] = scores.permute(1, 2, 0)[::6, ::6]
        golden[f"{name}/labels"] = labels.to(torch.uint8)
    golden.update(VIEWS)
    arrays = {name: np.ascontiguousarray(value.numpy()) for name, value in golden.items()}
    np.savez_compressed(Path(__file__).with_name("golden.npz"), **arrays)


if __name__ == "__main__":
    main()

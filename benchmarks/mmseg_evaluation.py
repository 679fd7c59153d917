"""Evaluates a network in mmsegmentation's own pipeline, and in PyTorch-Encoding's evaluator.

    <mmsegmentation environment>/bin/python benchmarks/mmseg_evaluation.py

is the other side of evaluate.py; mmseg_reference.py describes the environment. For PyTorch-Encoding it
also needs `pip install --no-deps torch-encoding==1.2.1`. Requests:

    {"what": "load", "weights": "state.npz", "network": {"depth": 18, "width": 1, ...}}
    {"what": "evaluate", "images": [...], "masks": [...], "ignore_index": 11, "save": "labels.npy",
     "way": {"align_corners": false, "resize": [1024, 256], "window": null, "stride": null,
             "ratios": null, "flip": false, "encoding": null}, "threads": 1}

The reply to the second has the seconds from files to scores, and what `IoUMetric` makes of its counts
in float64. `encoding` is `{"base": 520, "crop": 480}` for PyTorch-Encoding's evaluator, around the same
network.
"""

import importlib.util
import sys
import time
import types
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
from mmseg_reference import MEAN, STD, stub_mmcv_extensions
from turns import serve

CONFIG = "encnet_r50-d8_4xb4-80k_ade20k-512x512.py"
MEASURES = ["mIoU", "mDice"]
STAGES = {  # of the backbone, by output stride
    8: {"strides": [1, 2, 1, 1], "dilations": [1, 1, 2, 4]},
    16: {"strides": [1, 2, 2, 1], "dilations": [1, 1, 1, 2]},
}


def main():
    def prepare():
        stub_mmcv_extensions()
        import cv2
        import mmseg
        import torch
        from mmseg.utils import register_all_modules

        register_all_modules()
        versions = {"pytorch": torch.__version__, "mmsegmentation": mmseg.__version__}
        return {**versions, "opencv": cv2.__version__}, Evaluator().answer

    serve(prepare)


class Evaluator:
    """The network and the requests it answers."""

    def answer(self, what, **request):
        return getattr(self, what)(**request)

    def load(self, weights, network):
        import torch

        self.model = encoder_decoder(**network).eval()
        with np.load(weights) as arrays:
            state = {key: torch.from_numpy(arrays[key]) for key in arrays}
        missing, unexpected = self.model.load_state_dict(state, strict=False)
        missing = [key for key in missing if not key.endswith("num_batches_tracked")]
        if missing or unexpected:
            raise ValueError(f"Weights must be the network's. Missing: {missing}. Others: {unexpected}")
        return {"parameters": sum(p.numel() for p in self.model.parameters())}

    def evaluate(self, images, masks, ignore_index, way, save=None, threads=None):
        import torch
        from mmseg.evaluation import IoUMetric

        if threads:
            torch.set_num_threads(threads)
        classes = self.model.decode_head.num_classes
        self._corners(way["align_corners"])
        metric = IoUMetric(ignore_index=ignore_index, iou_metrics=MEASURES)
        metric.dataset_meta = {"classes": tuple(map(str, range(classes)))}
        run = self._encoding(way) if way["encoding"] else self._mmsegmentation(way)
        found = []
        start = time.perf_counter()
        with torch.inference_mode():
            for image, mask in zip(images, masks, strict=True):
                sample = run(image, mask)
                metric.process({}, [sample.to_dict()])
                found.append(sample.pred_sem_seg.data.squeeze().numpy().astype("uint8"))
        totals = [sum(area.double() for area in areas) for areas in zip(*metric.results, strict=True)]
        measures = metric.total_area_to_metrics(*totals, MEASURES)
        seconds = time.perf_counter() - start
        if save:
            np.save(save, np.stack(found))
        listed = {name: np.asarray(value).tolist() for name, value in measures.items()}
        return {"seconds": seconds, "miou": float(np.nanmean(listed["IoU"])), **listed}

    def _corners(self, align_corners):
        self.model.align_corners = align_corners
        for head in (self.model.decode_head, self.model.auxiliary_head):
            head.align_corners = align_corners

    def _mmsegmentation(self, way):
        """A function from the paths of image and mask to the result, by its configs' pipelines."""
        from mmcv.transforms import Compose
        from mmengine.dataset import pseudo_collate
        from mmengine.registry import init_default_scope
        from mmseg.models.segmentors.seg_tta import SegTTAModel

        init_default_scope("mmseg")
        window = way["window"] and {"crop_size": way["window"], "stride": way["stride"]}
        self.model.test_cfg.update({"mode": "slide" if window else "whole", **(window or {})})
        load, annotate, pack = (
            {"type": name} for name in ("LoadImageFromFile", "LoadAnnotations", "PackSegInputs")
        )
        model = self.model
        if way["ratios"]:
            sizes = [dict(type="Resize", scale_factor=r, keep_ratio=True) for r in way["ratios"]]
            flips = [dict(type="RandomFlip", prob=p, direction="horizontal") for p in (0.0, 1.0)]
            if not way["flip"]:
                flips = flips[:1]
            steps = dict(type="TestTimeAug", transforms=[sizes, flips, [annotate], [pack]])
            pipeline = Compose([load, steps])
            model = SegTTAModel(self.model)
        else:
            resize = dict(type="Resize", scale=tuple(way["resize"]), keep_ratio=True)
            pipeline = Compose([load, resize, annotate, pack])

        def run(image, mask):
            paths = {"img_path": image, "seg_map_path": mask}
            sample = pipeline({**paths, "seg_fields": [], "reduce_zero_label": False})
            return model.test_step(pseudo_collate([sample]))[0]

        return run

    def _encoding(self, way):
        import torch
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample
        from PIL import Image

        network = _Normalized(self.model, **way["encoding"])
        evaluator = multi_eval_module()(
            network, self.model.decode_head.num_classes, flip=way["flip"], scales=way["ratios"]
        )
        mean, std = (torch.tensor(values).view(3, 1, 1) / 255 for values in (MEAN, STD))

        def run(image, mask):
            pixels = torch.from_numpy(np.array(Image.open(image).convert("RGB"))).permute(2, 0, 1)
            scores = evaluator((pixels.float() / 255 - mean)[None] / std)
            truth = torch.from_numpy(np.array(Image.open(mask)))
            return SegDataSample(
                pred_sem_seg=PixelData(data=scores.argmax(1)), gt_sem_seg=PixelData(data=truth[None])
            )

        return run


def _Normalized(model, base, crop):
    """The network as PyTorch-Encoding's evaluator calls it, on normalized images."""
    import torch

    class Network(torch.nn.Module):
        base_size, crop_size = base, crop
        mean, std = [value / 255 for value in MEAN], [value / 255 for value in STD]
        _up_kwargs = {"mode": "bilinear", "align_corners": True}

        def evaluate(self, images):
            return model.encode_decode(images, [{"img_shape": images.shape[2:]}])

    return Network()


def multi_eval_module():
    """PyTorch-Encoding's evaluator; its compiled operators, data sets and networks are not needed."""
    import torch

    if "encoding" not in sys.modules:
        spec = importlib.util.find_spec("encoding")
        if spec is None:
            raise ValueError("PyTorch-Encoding is missing: pip install --no-deps torch-encoding==1.2.1")
        for name in ("encoding", "encoding.models", "encoding.models.sseg"):
            package = types.ModuleType(name)
            folder = Path(spec.submodule_search_locations[0], *name.split(".")[1:])
            package.__path__ = [str(folder)]
            sys.modules[name] = package
        for name in ("encoding.nn", "encoding.utils", "encoding.models.backbone", "torchvision"):
            sys.modules.setdefault(name, MagicMock())
        # It keeps its scores on the first GPU.
        torch.Tensor.cuda = lambda self, *_: self
    from encoding.models.sseg.base import MultiEvalModule

    return MultiEvalModule


def encoder_decoder(depth, width, num_classes, num_codes, channels, laterals, se_head, output_stride):
    """mmsegmentation's EncoderDecoder around an EncNet."""
    import mmseg
    from mmengine.config import Config
    from mmseg.registry import MODELS

    config = Config.fromfile(Path(mmseg.__file__).parent / ".mim" / "configs" / "encnet" / CONFIG)
    network = config.model
    network.pretrained = None
    base = round(64 * width)
    widths = [base * factor for factor in ((2, 4, 8) if depth < 50 else (8, 16, 32))]
    network.backbone.update(
        depth=depth, base_channels=base, stem_channels=base, **STAGES[output_stride]
    )
    network.decode_head.update(
        in_channels=widths,
        channels=channels,
        num_codes=num_codes,
        num_classes=num_classes,
        add_lateral=laterals,
        use_se_loss=se_head,
    )
    network.auxiliary_head.update(
        in_channels=widths[1], channels=widths[1] // 4, num_classes=num_classes
    )
    for part in (network.backbone, network.decode_head, network.auxiliary_head):
        part.norm_cfg.type = "BN"
    return MODELS.build(network)


if __name__ == "__main__":
    main()

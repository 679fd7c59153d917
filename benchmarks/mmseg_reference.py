"""Serves mmsegmentation's ResNet-50 EncNet for timing, one request at a time.

    <mmsegmentation environment>/bin/python benchmarks/mmseg_reference.py [--compile] [--bf16]
        [--device cuda]

runs in an environment with PyTorch, mmsegmentation 1.2.2 and mmcv-lite, and takes turns with a
benchmark in another environment. It writes one JSON line when it is ready, then answers each JSON line
on standard input with one on standard output; everything else goes to standard error.

    {"what": "inference", "height": 512, "width": 512}
    {"what": "train", "height": 256, "width": 256, "batch": 2}

    {"seconds": 1.62, "images_per_second": 0.617, "peak_mb": 1170.2}
    {"seconds": 2.31, "images_per_second": 0.866, "peak_mb": 2210.7, "loss": 4.53}

`inference` goes from uint8 NumPy images to NumPy label maps at the images' size (on CUDA, from device
arrays to device arrays); `train` is one step: forward, the three losses, backward and SGD. Optional
in a request: `batch` (1), `repeat` (1; `seconds` is the mean), and `save`, a path for the label
maps (`.npy`). Nothing is warmed up: the caller should discard the first request of each kind and size.
`peak_mb` is in 10^6 bytes: on the CPU the largest resident memory of the whole process during the
request, on CUDA the largest amount allocated on the device.

The network has 19 classes. Its weights are `weight(key, shape, seed=0)` and the images
`image(seed, height, width)`, with seeds 0, 1, ... over the batch, in tests/golden/weights.py. Inference
after training starts from these weights again, without gradients and optimizer state.
"""

import argparse
import contextlib
import sys
import time
import types
from pathlib import Path

import numpy as np
from turns import forget_peak, peak_mb, serve

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "golden"))
from weights import image, noise, state_dict

CLASSES = 19
CONFIG = "encnet_r50-d8_4xb2-80k_cityscapes-512x1024.py"
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compile", action="store_true", help="torch.compile and channels-last")
    parser.add_argument("--bf16", action="store_true", help="autocast to bfloat16")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="cuda implies --bf16")
    options = parser.parse_args()

    def prepare():
        reference = Reference(options)
        import mmseg
        import torch

        ready = {"pytorch": torch.__version__, "mmsegmentation": mmseg.__version__}
        if options.device == "cuda":
            ready["device"] = torch.cuda.get_device_name()
        return ready, reference.answer

    serve(prepare)


def mmseg_encnet():
    """mmsegmentation's EncoderDecoder for CONFIG, with plain batch norms and random weights."""
    stub_mmcv_extensions()
    import mmseg
    from mmengine.config import Config
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules()
    config = Config.fromfile(Path(mmseg.__file__).parent / ".mim" / "configs" / "encnet" / CONFIG)
    network = config.model
    network.pretrained = None
    for part in (network.backbone, network.decode_head, network.auxiliary_head):
        part.norm_cfg.type = "BN"
    return MODELS.build(network)


def stub_mmcv_extensions():
    """Lets mmseg import without mmcv's compiled operators: EncNet calls none of them."""

    class Extensions(types.ModuleType):
        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)

            def missing(*_, **__):
                raise NotImplementedError(f"mmcv-lite has no compiled operator {name!r}")

            return missing

    sys.modules.setdefault("mmcv._ext", Extensions("mmcv._ext"))


class Reference:
    """The network, its optimizer and the requests it answers."""

    def __init__(self, options):
        import torch

        self.torch, self.device = torch, torch.device(options.device)
        self.cuda = options.device == "cuda"
        self.half = options.bf16 or self.cuda
        self.last = options.compile or self.cuda
        self.memory = torch.channels_last if self.last else torch.contiguous_format
        self.model = mmseg_encnet()
        self.model.to(self.device, memory_format=self.memory)
        self.mean = torch.tensor(MEAN, device=self.device).view(1, 3, 1, 1)
        self.std = torch.tensor(STD, device=self.device).view(1, 3, 1, 1)
        self.optimizer = None
        self.restart()
        if options.compile:
            torch._dynamo.config.recompile_limit = 64  # one per size
            self.label_map = torch.compile(self.label_map, dynamic=False)
            self.network = torch.compile(self.network, dynamic=False)

    def restart(self):
        self.optimizer = None
        self.model.zero_grad(set_to_none=True)
        # Generated each time, because a kept copy would count in the peak memory.
        shapes = {key: tuple(value.shape) for key, value in self.model.state_dict().items()}
        state = {key: self.torch.tensor(value) for key, value in state_dict(shapes).items()}
        self.model.load_state_dict(state)

    def answer(self, what, height, width, batch=1, repeat=1, save=None):
        images = np.stack([image(seed, height, width) for seed in range(batch)])
        if self.cuda:
            images = self.torch.from_numpy(images).to(self.device)
        if what == "inference":
            if self.optimizer is not None:
                self.restart()
            self.model.eval()
            work = lambda: self.infer(images)  # noqa: E731
        elif what == "train":
            masks = np.floor((noise("masks", (batch, height, width)) + 1) / 2 * CLASSES)
            samples = self.data_samples(masks.astype("int64"))
            if self.optimizer is None:
                self.optimizer = self.torch.optim.SGD(
                    self.model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4
                )
            self.model.train()
            work = lambda: self.train_step(images, samples)  # noqa: E731
        else:
            raise ValueError(f'`what` must be "inference" or "train". Received: {what!r}')

        self.forget_peak()
        start = time.perf_counter()
        for _ in range(repeat):
            result = work()
        self.synchronize()
        seconds = (time.perf_counter() - start) / repeat
        reply = {"seconds": seconds, "images_per_second": batch / seconds}
        reply["peak_mb"] = self.peak_mb()
        if what == "train":
            reply["loss"] = float(result)
        elif save:
            np.save(save, result.cpu() if self.cuda else result)
        return reply

    def infer(self, images):
        with self.torch.inference_mode(), self.autocast():
            if self.cuda:
                return self.label_map(images)
            return self.label_map(self.torch.from_numpy(images)).numpy()

    def label_map(self, images):
        """uint8 (B, H, W, 3) -> uint8 (B, H, W), by mmsegmentation's own whole-image inference."""
        metas = [{"img_shape": tuple(images.shape[1:3])}] * len(images)
        logits = self.model.encode_decode(self.normalized(images), metas)
        return logits.argmax(1).to(self.torch.uint8)

    def train_step(self, images, samples):
        main, side = self.model.decode_head, self.model.auxiliary_head
        with self.autocast():
            outputs, aux = self.network(self.torch.as_tensor(images))
            parts = main.loss_by_feat(outputs, samples)
            loss = parts["loss_ce"] + parts["loss_se"] + side.loss_by_feat(aux, samples)["loss_ce"]
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def network(self, images):
        features = self.model.extract_feat(self.normalized(images))
        return self.model.decode_head(features), self.model.auxiliary_head(features)

    def normalized(self, images):
        x = (images.permute(0, 3, 1, 2).float() - self.mean) / self.std
        return x.contiguous(memory_format=self.memory)

    def data_samples(self, masks):
        from mmengine.structures import PixelData
        from mmseg.structures import SegDataSample

        masks = self.torch.from_numpy(masks).to(self.device)
        return [SegDataSample(gt_sem_seg=PixelData(data=mask[None])) for mask in masks]

    def autocast(self):
        if not self.half:
            return contextlib.nullcontext()
        return self.torch.autocast(self.device.type, dtype=self.torch.bfloat16)

    def synchronize(self):
        if self.cuda:
            self.torch.cuda.synchronize()

    def forget_peak(self):
        self.synchronize()
        if self.cuda:
            self.torch.cuda.reset_peak_memory_stats()
        else:
            forget_peak()

    def peak_mb(self):
        if self.cuda:
            return self.torch.cuda.max_memory_allocated() / 1e6
        return peak_mb()


if __name__ == "__main__":
    main()

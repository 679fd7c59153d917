"""Writes `saved/`: checkpoints by PyTorch, mmengine's `Runner` and `oracles.py`, and what `torch.load`
reads from them.

    <oracle environment>/bin/python tests/convert/reading/make_checkpoints.py <folder of oracles.py>

The environment is the one that `oracles.py` describes.
"""

import contextlib
import shutil
import sys
import tempfile
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import numpy as np

SAVED = Path(__file__).resolve().parent / "saved"
CLASSES, PALETTE = ["road", "sky"], [[128, 64, 128], [70, 130, 180]]
CONFIG = SimpleNamespace(pretty_text="model = dict(type='EncoderDecoder')\n")


def every_kind():
    """A state dict with every kind of tensor that a checkpoint may hold."""
    import torch

    torch.manual_seed(0)
    base = torch.randn(4, 5, 6)
    state = OrderedDict(
        (f"dtype.{dtype}", (10 * base[:2, :3]).to(dtype))
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    )
    for dtype in (torch.int8, torch.int16, torch.int32, torch.int64):
        low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
        state[f"dtype.{dtype}"] = torch.tensor([low, -1, 0, high], dtype=dtype)
    state["dtype.uint8"] = torch.tensor([[0, 255], [1, 128]], dtype=torch.uint8)
    state["dtype.bool"] = base[0] > 0
    half = torch.tensor([1e-8, 65504.0, torch.inf, -torch.inf, -0.0])
    state["special.float16"] = half.half()
    state["special.bfloat16"] = torch.tensor([3e38, 1e-40, torch.inf, -torch.inf, -0.0]).bfloat16()
    state["shared.whole"] = base
    state["shared.again"] = base
    state["view.offset"] = base[2:, 1:3, 4]
    state["view.transposed"] = base.permute(2, 0, 1)
    state["view.strided"] = base[::3, ::2, ::5]
    state["view.expanded"] = base[0, 0, 0].expand(3, 2)
    state["view.half"] = base.half().permute(2, 1, 0).contiguous().permute(2, 1, 0)[1:]
    state["view.bfloat16"] = base.bfloat16()[:, 2].T
    state["view.bool"] = (base > 0).permute(1, 0, 2)[::2]
    state["size.none"] = torch.zeros(0)
    state["size.zero"] = torch.zeros(3, 0, 2)
    state["size.scalar"] = torch.tensor(3.5)
    state["size.scalar_int"] = base.long().sum()
    state["size.scalar_bfloat16"] = torch.tensor(-2.75, dtype=torch.bfloat16)
    state["size.scalar_bool"] = torch.tensor(True)
    state["parameter"] = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3))
    state["parameter.state"] = torch.nn.Parameter(torch.arange(3.0))
    state["parameter.state"].note = "an attribute"
    return state


def small_model():
    """A network of three layers, with names like mmsegmentation's."""
    import torch

    torch.manual_seed(1)
    return torch.nn.ModuleDict(
        {
            "backbone": torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)),
            "decode_head": torch.nn.ModuleDict({"conv_seg": torch.nn.Conv2d(4, 2, 1)}),
        }
    )


def run(folder):
    """Trains two steps with mmengine's `Runner`, EMA and a schedule; returns the path it writes."""
    import torch
    from mmengine.config import Config
    from mmengine.dataset import BaseDataset
    from mmengine.model import BaseModel
    from mmengine.registry import DATASETS, MODELS
    from mmengine.runner import Runner

    @DATASETS.register_module()
    class Pixels(BaseDataset):
        METAINFO = {"classes": tuple(CLASSES), "palette": PALETTE}

        def load_data_list(self):
            return [{"pixels": torch.full((3, 8, 8), float(i))} for i in range(4)]

    @MODELS.register_module()
    class Small(BaseModel):
        def __init__(self):
            super().__init__()
            for name, part in small_model().items():
                self.add_module(name, part)

        def forward(self, pixels, sample_idx, mode="tensor"):
            logits = self.decode_head["conv_seg"](self.backbone(torch.stack(pixels)))
            return {"loss": logits.square().mean()} if mode == "loss" else logits

    out = {"out_dir": "saved"}  # relative, because the file contains it
    config = {
        "work_dir": folder,
        "experiment_name": "small",
        "model": {"type": "Small"},
        "train_dataloader": {
            "batch_size": 2,
            "dataset": {"type": "Pixels"},
            "sampler": {"type": "DefaultSampler", "shuffle": True},
            "collate_fn": {"type": "pseudo_collate"},
        },
        "train_cfg": {"by_epoch": False, "max_iters": 2},
        "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.1, "momentum": 0.9}},
        "param_scheduler": [{"type": "PolyLR", "by_epoch": False, "end": 2}],
        "default_hooks": {
            "logger": {"type": "LoggerHook", "interval": 1},
            "checkpoint": {"type": "CheckpointHook", "interval": 2, "by_epoch": False, **out},
        },
        "custom_hooks": [{"type": "EMAHook"}],
        "default_scope": "mmengine",
    }
    Runner.from_cfg(Config(config)).train()
    return Path("saved", folder, "iter_2.pth")


def main(oracles):
    import torch

    SAVED.mkdir(exist_ok=True)
    model = small_model()
    torch.save(every_kind(), SAVED / "kinds_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(every_kind(), SAVED / "kinds_zip.pth")
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        oracles.mmseg_run("mmseg_run.pth", model, CONFIG, CLASSES, PALETTE)
        shutil.copy("mmseg_run.pth", SAVED)
        shutil.copy(run("run"), SAVED / "runner.pth")
    expected = {}
    for path in sorted(SAVED.glob("*.pth")):
        loaded = torch.load(path, weights_only=False)
        for key, tensor in loaded.get("state_dict", loaded).items():
            value = tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()
            expected[f"{path.stem}/{str(tensor.dtype).removeprefix('torch.')}/{key}"] = value.numpy()
    np.savez_compressed(SAVED / "expected.npz", **expected)


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    import oracles

    main(oracles)

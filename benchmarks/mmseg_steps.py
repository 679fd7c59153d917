"""Trains mmsegmentation's EncNet for ten steps, in float32 or float64.

    <mmsegmentation environment>/bin/python benchmarks/mmseg_steps.py

is the other side of training_parity.py; mmseg_reference.py describes the environment. A request:

    {"depth": 18, "width": 1.0, "channels": 512, "align_corners": false, "decaying": true, "seed": 0,
     "count": 4, "size": [64, 96], "dtype": "float64", "save": "run.npz"}

The steps are mmsegmentation's own: its data preprocessor, `loss` in train mode (dropout 0), mmengine's
optimizer wrapper and, if the rate is `decaying`, `PolyLR`. The file holds a run, as in
tests/golden/steps.py.
"""

import sys
from pathlib import Path

import numpy as np
from mmseg_evaluation import encoder_decoder
from mmseg_reference import stub_mmcv_extensions
from turns import serve

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from golden.steps import CLASSES, CODES, STEPS, batch
from golden.weights import state_dict

NAMES = {"pixel": "decode.loss_ce", "aux": "aux.loss_ce", "se": "decode.loss_se"}


def main():
    def prepare():
        stub_mmcv_extensions()
        import mmseg
        import torch
        from mmseg.utils import register_all_modules

        register_all_modules()
        return {"pytorch": torch.__version__, "mmsegmentation": mmseg.__version__}, train

    serve(prepare)


def train(depth, width, channels, align_corners, decaying, seed, count, size, dtype, save):
    import torch
    from mmengine.optim import PolyLR, build_optim_wrapper

    model = encoder_decoder(depth, width, CLASSES, CODES, channels, False, True, 8)
    for head in (model.decode_head, model.auxiliary_head):
        head.align_corners = align_corners
        head.dropout.p = 0.0
    model.align_corners = align_corners
    model.data_preprocessor.size = tuple(size)
    before = state_dict({key: tuple(value.shape) for key, value in model.state_dict().items()}, seed)
    model.load_state_dict({key: torch.tensor(value) for key, value in before.items()})
    model.to(getattr(torch, dtype)).train()

    sgd = dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=0.0005)
    wrapper = build_optim_wrapper(model, dict(type="OptimWrapper", optimizer=sgd))
    decay = PolyLR(wrapper, eta_min=1e-4, power=0.9, begin=0, end=STEPS, by_epoch=False)
    weights = {
        "pixel": model.decode_head.loss_decode.loss_weight,
        "aux": model.auxiliary_head.loss_decode.loss_weight,
        "se": model.decode_head.loss_se_decode.loss_weight,
    }
    run = {name: [] for name in (*NAMES, "rate")}
    for step in range(STEPS):
        run["rate"].append(wrapper.get_lr()["lr"][0])
        losses = model(**data(model, seed, step, count, size), mode="loss")
        for name, key in NAMES.items():
            run[name].append(losses[key].item() / weights[name])
        wrapper.update_params(model.parse_losses(losses)[0])
        if decaying:
            decay.step()
    for key, value in model.state_dict().items():
        if not key.endswith("num_batches_tracked"):
            run[f"update/{key}"] = value.numpy() - before[key].astype(dtype)
    np.savez(save, **run)
    return {name: run[name] for name in NAMES}


def data(model, seed, step, count, size):
    """A batch as mmsegmentation's data loader gives it, through its preprocessor."""
    import torch
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    images, masks = batch(seed, step, count, *size)
    bgr = [
        torch.from_numpy(np.ascontiguousarray(each[..., ::-1].transpose(2, 0, 1))) for each in images
    ]
    samples = [
        SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(mask.astype("int64"))[None]))
        for mask in masks
    ]
    return model.data_preprocessor({"inputs": bgr, "data_samples": samples}, training=True)


if __name__ == "__main__":
    main()

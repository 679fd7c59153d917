"""Writes `recipes.npz` next to this file: what other libraries make of losses, rates and updates.

    <oracle environment>/bin/python tests/golden/make_recipes.py --oracles <path to oracles.py>

needs what `make.py` needs, and segmentation_models.pytorch 0.6.0 (`pip install --no-deps` will do: only
its losses are loaded); a few seconds. Everything is computed in float64 from inputs of `weights.py`.

    losses/<case>/mask            uint8 (2, 8, 9), 5 classes, 255 ignored; class 4 is absent
    losses/<case>/logits          float32 (2, 8, 9, 5)
    losses/<case>/class_weight    (5,), their mean is 1; where given
    losses/<case>/<name>          the value of a loss; NAMES says whose and of which options
    losses/<case>/grad_<name>     float32, its gradient with respect to the logits
    rates/<case>                  (steps,) the learning rate in each step, of mmengine's schedulers or
                                  PyTorch-Encoding's
    updates/<case>/<step>/<name>  weights after each of five steps of torch.optim.SGD
"""

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
from make import given_oracles

from weights import noise

HERE = Path(__file__).parent
CLASSES = 5
WEIGHTS = (0.5, 1.5, 2.0, 0.25, 0.75)


def main():
    given_oracles().mmseg_config("encnet_r50-d8_4xb4-80k_ade20k-512x512")  # stubs of compiled parts
    arrays = losses() | rates() | updates()
    np.savez_compressed(HERE / "recipes.npz", **arrays)


# Losses


def losses():
    smp, arrays = smp_losses(), {}
    drawn = np.floor((noise("recipes/mask", (2, 8, 9)) + 1) / 2 * (CLASSES - 1)).astype("uint8")
    ignored = drawn.copy()
    ignored[noise("recipes/ignored", drawn.shape) > 0.3] = 255
    few = np.full_like(drawn, 255)
    few[0, 3, 4:7] = 2, 1, 2
    cases = {
        "full": (drawn, None),
        "ignored": (ignored, None),
        "weighted": (ignored, WEIGHTS),
        "few-pixels": (few, None),
    }
    for case, (mask, weights) in cases.items():
        logits = (4 * noise(f"recipes/{case}", (2, 8, 9, CLASSES))).astype("float32")
        record = {"mask": mask, "logits": logits} | (
            {} if weights is None else {"class_weight": weights}
        )
        for name, loss in library_losses(smp, weights).items():
            record[name], record[f"grad_{name}"] = value_and_gradient(loss, mask, logits)
        arrays |= {f"losses/{case}/{key}": np.asarray(value) for key, value in record.items()}
    return arrays


def library_losses(smp, weights):
    """{name: function of logits (batch, classes, height, width) and mask}, of one library each."""
    import torch
    from mmseg.models.losses import LovaszLoss, OhemCrossEntropy
    from mmseg.models.losses.focal_loss import py_sigmoid_focal_loss

    tensor = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    some = None if weights is None else list(weights)
    common = {"mode": "multiclass", "ignore_index": 255}

    def mmseg_focal(alpha, gamma):
        # As `FocalLoss.forward` calls it, which fails on CPUs in mmsegmentation 1.2.2.
        def loss(logits, mask):
            flat = mask.reshape(-1)
            valid = flat != 255
            target = torch.nn.functional.one_hot(torch.where(valid, flat, 0), CLASSES)
            pixels = logits.permute(0, 2, 3, 1).reshape(-1, CLASSES)
            return py_sigmoid_focal_loss(
                pixels, target, gamma=gamma, alpha=alpha, class_weight=some, valid_mask=valid[:, None]
            )

        return loss

    found = {
        "mmseg_lovasz": LovaszLoss(reduction="none", class_weight=some),
        "mmseg_focal": mmseg_focal(0.5, 2.0),
        "mmseg_focal_3": mmseg_focal(0.25, 3.0),
        "mmseg_ohem_20": OhemCrossEntropy(thres=0.3, min_kept=20, class_weight=some),
        "mmseg_ohem": OhemCrossEntropy(class_weight=some),
        "smp_dice": smp.dice.DiceLoss(**common, class_weights=some),
        "smp_focal": smp.focal.FocalLoss(**common, class_weights=some),
        "torch_smoothing": torch.nn.CrossEntropyLoss(tensor, ignore_index=255, label_smoothing=0.1),
    }
    if weights is None:
        found |= {
            "smp_lovasz": smp.lovasz.LovaszLoss(**common),
            "smp_smoothing": smp.soft_ce.SoftCrossEntropyLoss(smooth_factor=0.1, ignore_index=255),
        }
    return found


def value_and_gradient(loss, mask, logits):
    import torch

    torch.Tensor.float = torch.Tensor.double  # mmsegmentation calls it in between
    leaf = torch.from_numpy(np.moveaxis(logits, -1, 1).astype("float64")).requires_grad_()
    if isinstance(loss, torch.nn.Module):
        loss.double()
        for name, value in vars(loss).items():
            if torch.is_tensor(value):
                setattr(loss, name, value.double())
    value = loss(leaf, torch.from_numpy(mask.astype("int64")))
    value.backward()
    return value.item(), np.moveaxis(leaf.grad.numpy(), 1, -1).astype("float32")


def smp_losses():
    """segmentation_models.pytorch's modules of losses, without the networks of the package."""
    root = Path(importlib.util.find_spec("segmentation_models_pytorch").origin).parent
    package = types.ModuleType("smp_losses")
    package.__path__ = [str(root / "losses")]
    sys.modules["smp_losses"] = package
    names = ("dice", "focal", "lovasz", "soft_ce")
    return types.SimpleNamespace(**{n: importlib.import_module(f"smp_losses.{n}") for n in names})


# Rates


def rates():
    from mmengine.optim import LinearLR, PolyLR

    poly = {"power": 0.9, "by_epoch": False}
    warm = {"by_epoch": False, "begin": 0}
    found = {
        "mmengine-10": (10, [(PolyLR, {**poly, "eta_min": 1e-4, "begin": 0, "end": 10})]),
        "mmengine-1": (1, [(PolyLR, {**poly, "eta_min": 1e-4, "begin": 0, "end": 1})]),
        "mmengine-2000": (2000, [(PolyLR, {**poly, "eta_min": 0.0, "begin": 0, "end": 2000})]),
        "mmengine-warmup": (
            40,
            [
                (LinearLR, {**warm, "start_factor": 1e-6, "end": 8}),
                (PolyLR, {**poly, "power": 1.0, "eta_min": 0.0, "begin": 8, "end": 40}),
            ],
        ),
        "mmengine-warmup-01": (
            40,
            [
                (LinearLR, {**warm, "start_factor": 0.1, "end": 10}),
                (PolyLR, {**poly, "eta_min": 1e-4, "begin": 10, "end": 40}),
            ],
        ),
    }
    arrays = {f"rates/{name}": mmengine_rates(*case) for name, case in found.items()}
    scheduler = pytorch_encoding_scheduler()
    for name, warmup in {"pytorch-encoding": 0, "pytorch-encoding-warmup": 2}.items():
        arrays[f"rates/{name}"] = pytorch_encoding_rates(scheduler, warmup)
    return arrays


def mmengine_rates(steps, schedulers):
    optimizer = optimizer_of_one()
    schedulers = [kind(optimizer, **options) for kind, options in schedulers]
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in schedulers:
            scheduler.step()
    return np.array(found)


def pytorch_encoding_rates(kind, warmup):
    """Of five epochs of four steps."""
    optimizer, found = optimizer_of_one(), []
    scheduler = kind("poly", 0.01, 5, 4, warmup_epochs=warmup, quiet=True)
    for epoch in range(5):
        for step in range(4):
            scheduler(optimizer, step, epoch, 0.0)
            found.append(optimizer.param_groups[0]["lr"])
    return np.array(found)


def optimizer_of_one():
    import torch

    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.01)


def pytorch_encoding_scheduler():
    root = Path(importlib.util.find_spec("encoding").origin).parent
    spec = importlib.util.spec_from_file_location("scheduler", root / "utils" / "lr_scheduler.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LR_Scheduler


# Updates


def updates():
    """A kernel and a bias of backbone and head, in groups with 10 times the rate, without decay."""
    import torch

    arrays = {}
    for case in ("plain", "nesterov", "groups", "clipped"):
        values = {
            name: torch.nn.Parameter(torch.from_numpy(noise(f"updates/{name}", (4,))))
            for name in ("backbone/kernel", "backbone/bias", "head/kernel", "head/bias")
        }
        grouped = case == "groups"
        groups = [
            {
                "params": [value],
                "lr": 0.1 * (10 if grouped and name.startswith("head") else 1),
                "weight_decay": 0.0 if grouped and name.endswith("bias") else 0.05,
            }
            for name, value in values.items()
        ]
        optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=case == "nesterov")
        for step in range(5):
            for group in optimizer.param_groups:
                group["lr"] *= 0.8
            for name, value in values.items():
                value.grad = torch.from_numpy(noise(f"updates/{name}/gradient", (4,), step))
            if case == "clipped":
                torch.nn.utils.clip_grad_norm_(values.values(), 0.5)
            optimizer.step()
            for name, value in values.items():
                arrays[f"updates/{case}/{step}/{name}"] = value.detach().numpy().copy()
    return arrays


if __name__ == "__main__":
    main()

"""Writes the golden outputs next to this file: those of the PyTorch EncNets, for tests without PyTorch.

    <oracle environment>/bin/python tests/golden/make.py --oracles <path to oracles.py>

needs PyTorch, mmsegmentation 1.2.2 and torch-encoding 1.2.1; about three minutes on two cores. All
weights, images and layer inputs come from `weights.py`, so the files hold little but outputs.
Spatial arrays are channels last. Networks run in float32 on the CPU, as users run them; gradients,
losses and the optimizer run in float64.

`shapes.json`: {architecture: {key: shape}}, the state dict of each architecture under its own code
base's keys; -1 stands for the number of classes.

`cases.json`: {case: {...}}, a record for each run of a complete network: `source` ("mmsegmentation" or
"pytorch-encoding"), `architecture` (into shapes.json), `depth`, `stem` ("v1c", "s"), `num_classes`,
`align_corners`, `output_stride`, `laterals`, `se_head`, `weights_seed`, `image_seed`, `height`,
`width`, `image_sum` (sum of the image's values, a checksum), `largest` ({"logits",
"aux", "se"}: largest magnitude in the output, the unit of tolerances) and `float32_error` (largest
difference of the original between float32 and float64, in that unit).

`networks.npz`, for each case, P sampled pixels of the image, C classes, float32 except the first:
    <case>/positions  int16 (P, 2)   row and column; the corners are always among them
    <case>/logits     (P, C)         logits at the image's size, as the original resizes them
    <case>/aux        (P, C)         the same of the auxiliary head
    <case>/se         (C,)           SE logits, before the sigmoid; absent without that head
    <case>/logits_mean, aux_mean (C,)   means over all pixels of the float64 run

`layers.npz`:
    encoding/<case>/shape         int (5,): B, H, W, C, K
    encoding/<case>/seed, offset  the inputs are `encoding_inputs(shape, seed, offset)`
    encoding/<case>/mmseg, pytorch_encoding   float32 (B, K, C), of the two originals in float32
    encoding/<case>/exact         float32 (B, K, C), the paper's formula computed in float64
    encoding/<case>/grad_x (B, H, W, C), grad_codewords (K, C), grad_scale (K,)   float32, computed
                                  in float64, of sum(exact * noise("out", (B, K, C), seed))
    resize/<h>x<w>-<H>x<W>/corners, centres   float32 (1, H, W, 2): align_corners True, False of
                                  float32 noise("resize", (1, h, w, 2))
    resize_grad/<h>x<w>-<H>x<W>/corners, centres   float32 (1, h, w, 2), computed in float64:
                                  gradient of sum(resized * noise("out", (1, H, W, 2)))

`training.npz`, losses and SGD:
    losses/<case>/mask            uint8 (2, 8, 9), 5 classes, 255 ignored
    losses/<case>/logits, aux, se    float32 (2, h, w, 5) before any resize, (2, 5)
    losses/<case>/align_corners, avg_non_ignore   bool; losses/<case>/class_weight (5,) where given
    losses/<case>/presence        (2, 5) the SE head's targets
    losses/<case>/pixel, aux_loss, se_loss, total   float64 scalars, weighted by 1, 0.4, 0.2
    losses/<case>/grad_logits, grad_aux, grad_se    float32, of the total; computed in float64
    losses/paper-<case>/...       PyTorch-Encoding's SegmentationLosses: the same inputs, the total
                                  and its gradients
    sgd/<case>/momentum, weight_decay   scalars
    sgd/<case>/start (n,), gradients (5, n), rates (5,), steps (5, n)   float64; values after each
                                  step of torch.optim.SGD
    sgd/quadratic/matrix, vector  the gradient of this case is matrix @ value - vector

`training.npz` and `training.json`, one step of mmsegmentation's ResNet-18 EncNet in train mode
without dropout, in float64:
    step/images, masks            uint8 (2, 64, 64, 3), (2, 64, 64)
    step/gradient/<key>           (n,) sampled entries of the gradient
    step/entries/<key>            int32 (n,), their indices in the flattened PyTorch array
    step/running/<key>, running_entries/<key>   the same for running statistics after the step
    training.json                 architecture, num_classes, weights_seed, `losses`; and by key
        `sum_of_squares` of the gradient and `float32_error`, the largest error of the original's
        float32 gradient divided by the gradient's largest entry
"""

import argparse
import importlib.util
import json
from pathlib import Path

import numpy as np

from weights import encoding_inputs, image, noise, state_dict

HERE = Path(__file__).parent
MEAN = np.float32([123.675, 116.28, 103.53])
STD = np.float32([58.395, 57.12, 57.375])
SIZES = ((64, 64), (97, 131), (226, 161))
STRIDES = {
    8: {},
    16: {"strides": (1, 2, 2, 1), "dilations": (1, 1, 1, 2)},
    32: {"strides": (1, 2, 2, 2), "dilations": (1, 1, 1, 1)},
}
CLASSIFIERS = ("conv_seg.", "se_layer.", "conv6.1.", "selayer.", "auxlayer.conv5.4.")


def main():
    oracles = given_oracles()
    shapes, cases, arrays = {}, {}, {}
    for build in (mmseg_cases, pytorch_encoding_cases):
        for model, case in build(oracles):
            run_network(model, case, shapes, cases, arrays)
    write_json("shapes.json", shapes)
    write_json("cases.json", cases)
    write_arrays("networks.npz", arrays)

    write_arrays("layers.npz", encoding_layers() | resizes())
    step, record = training_step(oracles)
    write_arrays("training.npz", losses() | sgd() | step)
    write_json("training.json", record)


def given_oracles():
    """The module that `--oracles` names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--oracles", required=True, type=Path)
    spec = importlib.util.spec_from_file_location("oracles", parser.parse_args().oracles)
    oracles = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oracles)
    return oracles


# Complete networks


def mmseg_cases(oracles):
    """Yields (model, case) for every mmsegmentation case; only one model is in memory."""
    rows = []
    for corners in (False, True):
        for seed in (0, 1):
            rows.append(dict(depth=18, align_corners=corners, weights_seed=seed, sizes=SIZES))
        rows.append(dict(depth=18, align_corners=corners, laterals=True, sizes=SIZES[1:2]))
        rows.append(dict(depth=101, align_corners=corners, sizes=SIZES))
        for stride in (16, 32):
            row = dict(depth=18, align_corners=corners, output_stride=stride, laterals=True)
            rows.append(row | dict(sizes=SIZES[1:2]))
    rows.append(dict(depth=18, se_head=False, sizes=SIZES[1:2]))
    rows.append(dict(depth=18, output_stride=16, sizes=SIZES[:1]))
    rows.append(dict(depth=50, align_corners=False, num_classes=150, sizes=SIZES))
    rows.append(dict(depth=50, align_corners=True, sizes=SIZES))
    for row in rows:
        sizes = row.pop("sizes")
        case = dict(
            source="mmsegmentation", stem="v1c", depth=50, num_classes=19, align_corners=False,
            output_stride=8, laterals=False, se_head=True, weights_seed=0,
        ) | row  # fmt: skip
        model = mmseg_model(oracles, case)
        for height, width in sizes:
            yield model, case | dict(height=height, width=width)


def mmseg_model(oracles, case, **heads):
    data = "80k_ade20k-512x512" if case["num_classes"] == 150 else "80k_cityscapes-769x769"
    depth = "r101" if case["depth"] == 101 else "r50"
    name = f"encnet_{depth}-d8_{'4xb4' if 'ade' in data else '4xb2'}-{data}"
    both = {"align_corners": case["align_corners"], "num_classes": case["num_classes"]} | heads
    decode = both | {"add_lateral": case["laterals"], "use_se_loss": case["se_head"]}
    aux, backbone = dict(both), dict(STRIDES[case["output_stride"]])
    if case["depth"] == 18:
        backbone["depth"] = 18
        decode["in_channels"] = (128, 256, 512)
        aux |= {"in_channels": 256, "channels": 64}
    model, _ = oracles.mmseg_model(name, backbone=backbone, decode_head=decode, auxiliary_head=aux)
    return load(model, case["weights_seed"])


def pytorch_encoding_cases(oracles):
    """Yields (model, case) for every PyTorch-Encoding case."""
    for num_classes, laterals in ((150, False), (59, True)):
        case = dict(
            source="pytorch-encoding", stem="s", depth=50, num_classes=num_classes,
            align_corners=True, output_stride=8, laterals=laterals, se_head=True, weights_seed=0,
        )  # fmt: skip
        model = load(oracles.pytorch_encoding_model(num_classes, lateral=laterals), 0)
        for height, width in SIZES[:2]:
            yield model, case | dict(height=height, width=width)


def load(model, seed):
    import torch

    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = {key: torch.tensor(value) for key, value in state_dict(shapes, seed).items()}
    model.load_state_dict(state)
    return model.eval()


def run_network(model, case, shapes, cases, arrays):
    """Adds one case's outputs to `arrays`, its record to `cases`, its state dict to `shapes`."""
    variant = "-laterals" * case["laterals"] + "-nose" * (not case["se_head"])
    case["architecture"] = f"{case['source']}-r{case['depth']}{case['stem']}{variant}"
    stride = f"-os{case['output_stride']}" * (case["output_stride"] != 8)
    corners = "corners" if case["align_corners"] else "centres"
    height, width, classes = case["height"], case["width"], case["num_classes"]
    name = (
        f"{case['architecture']}{stride}-c{classes}-{corners}-w{case['weights_seed']}-{height}x{width}"
    )
    shapes[case["architecture"]] = {
        key: [-1, *value.shape[1:]] if any(c in key for c in CLASSIFIERS) else list(value.shape)
        for key, value in model.state_dict().items()
    }
    case["image_seed"] = len(cases)
    pixels = image(case["image_seed"], height, width)
    case["image_sum"] = int(pixels.sum(dtype="int64"))

    outputs = forward(model, case, pixels, "float32")
    exact = forward(model, case, pixels, "float64")
    case["largest"] = {key: float(np.abs(value).max()) for key, value in outputs.items()}
    case["float32_error"] = {
        key: float(np.abs(value - exact[key]).max() / case["largest"][key])
        for key, value in outputs.items()
    }
    at = positions(name, height, width)
    arrays[f"{name}/positions"] = at.astype("int16")
    for key in ("logits", "aux"):
        arrays[f"{name}/{key}"] = outputs[key][at[:, 0], at[:, 1]]
        arrays[f"{name}/{key}_mean"] = exact[key].mean((0, 1)).astype("float32")
    if case["se_head"]:
        arrays[f"{name}/se"] = outputs["se"]
    cases[name] = case
    print(name, case["largest"], case["float32_error"], flush=True)


def forward(model, case, pixels, dtype):
    """{"logits", "aux"} (H, W, C) and "se" (C,) of one image, in evaluation mode."""
    import torch

    model.to(getattr(torch, dtype))
    with torch.inference_mode():
        outputs = {}
        x = torch.from_numpy(normalized(pixels[None])).to(getattr(torch, dtype))
        if case["source"] == "mmsegmentation":
            features = model.extract_feat(x)
            out, meta = model.decode_head(features), [{"img_shape": pixels.shape[:2]}]
            if case["se_head"]:
                out, outputs["se"] = out
            outputs["logits"] = model.decode_head.predict_by_feat(out, meta)
            aux = model.auxiliary_head(features)
            outputs["aux"] = model.auxiliary_head.predict_by_feat(aux, meta)
        else:
            outputs["logits"], outputs["se"], outputs["aux"] = model(x)
    model.float()
    return {
        key: np.ascontiguousarray(np.moveaxis(value[0].numpy(), 0, -1))
        for key, value in outputs.items()
    }


def normalized(pixels):
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W) as both code bases normalize."""
    return np.ascontiguousarray(((pixels.astype("float32") - MEAN) / STD).transpose(0, 3, 1, 2))


def positions(name, height, width, count=48):
    """(count, 2) rows and columns: the corners, some of each border, the rest anywhere."""
    size = np.array([height, width])
    at = np.floor((noise(f"{name}/positions", (count, 2)) + 1) / 2 * size).astype("int64")
    last = size - 1
    at[:4] = [(0, 0), (0, last[1]), (last[0], 0), last]
    at[4:7, 0], at[7:10, 0], at[10:13, 1], at[13:16, 1] = 0, last[0], 0, last[1]
    return at


# Layers


def encoding_layers():
    import torch
    from encoding.nn import encoding as theirs
    from mmseg.models.utils import Encoding

    arrays = {}
    table = [  # B, H, W, C, K; seed; offset (far from the origin, distances cancel)
        ((1, 1, 1, 3, 2), 0, 0.0),
        ((2, 7, 5, 8, 4), 1, 0.0),
        ((3, 9, 13, 16, 32), 2, 0.0),
        ((2, 6, 11, 33, 7), 3, 0.0),
        ((2, 5, 7, 8, 6), 4, 10.0),
    ]
    for shape, seed, offset in table:
        name = "encoding/" + "x".join(map(str, shape)) + f"-{seed}"
        batch, height, width, channels, codes = shape
        inputs = x, codewords, scale = encoding_inputs(shape, seed, offset)
        nchw = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
        arrays[f"{name}/shape"] = np.array(shape)
        arrays[f"{name}/seed"], arrays[f"{name}/offset"] = np.array(seed), np.array(offset)
        originals = {
            "mmseg": Encoding(channels, codes),
            "pytorch_encoding": theirs.Encoding(channels, codes),
        }
        for key, layer in originals.items():
            layer.codewords.data = torch.from_numpy(codewords)
            layer.scale.data = torch.from_numpy(scale)
            arrays[f"{name}/{key}"] = layer(nchw).detach().numpy()

        leaves = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in inputs]
        residual = leaves[0].reshape(batch, -1, 1, channels) - leaves[1]
        assigned = torch.softmax(leaves[2] * residual.square().sum(-1), -1)
        out = (assigned[..., None] * residual).sum(1)
        (out * torch.from_numpy(noise("out", tuple(out.shape), seed))).sum().backward()
        arrays[f"{name}/exact"] = out.detach().numpy().astype("float32")
        for key, leaf in zip(("x", "codewords", "scale"), leaves, strict=True):
            arrays[f"{name}/grad_{key}"] = leaf.grad.numpy().astype("float32")
    return arrays


def resizes():
    import torch
    from torch.nn.functional import interpolate

    arrays = {}
    table = [
        ((8, 8), (64, 64)), ((13, 17), (51, 70)), ((7, 5), (15, 11)), ((5, 7), (3, 4)),
        ((16, 12), (5, 7)), ((9, 4), (9, 4)), ((1, 1), (5, 6)), ((1, 6), (7, 1)),
        ((6, 5), (1, 1)), ((4, 6), (8, 12)), ((12, 8), (6, 4)), ((3, 10), (20, 3)),
        ((2, 2), (33, 2)), ((29, 21), (57, 40)),
    ]  # fmt: skip
    for small, large in table:
        size = f"{small[0]}x{small[1]}-{large[0]}x{large[1]}"
        values = noise("resize", (1, *small, 2))
        for rule, corners in (("corners", True), ("centres", False)):
            x = torch.from_numpy(values.transpose(0, 3, 1, 2).copy())
            y = interpolate(x.float(), large, mode="bilinear", align_corners=corners)
            arrays[f"resize/{size}/{rule}"] = y.permute(0, 2, 3, 1).contiguous().numpy()
            if small in ((7, 5), (16, 12)):
                x.requires_grad_()
                y = interpolate(x, large, mode="bilinear", align_corners=corners)
                out = torch.from_numpy(noise("out", (1, *large, 2)).transpose(0, 3, 1, 2).copy())
                (y * out).sum().backward()
                grad = x.grad.permute(0, 2, 3, 1).contiguous().numpy()
                arrays[f"resize_grad/{size}/{rule}"] = grad.astype("float32")
    return arrays


# Training


def losses():
    arrays = {}
    size, classes = (8, 9), 5
    drawn = np.floor((noise("mask", (2, *size)) + 1) / 2 * classes).astype("uint8")
    drawn[0][drawn[0] == 3] = 1
    drawn[1][drawn[1] % 4 == 0] = 2
    some, alone, none = drawn.copy(), drawn.copy(), drawn.copy()
    some[noise("ignored", some.shape) > 0.3] = 255
    some[1][some[1] == 1] = 255
    alone[1], alone[0, 0, :3] = 255, 255
    none[:] = 255
    heavy = (0.5, 1.0, 2.0, 0.25, 3.0)
    table = {
        "full": (drawn, size, False, False, None),
        "ignored": (some, size, False, False, None),
        "ignored-counted": (some, size, False, True, None),
        "ignored-low-centres": (some, (3, 4), False, False, None),
        "ignored-low-corners": (some, (3, 4), True, False, None),
        "ignored-low-corners-counted": (some, (3, 4), True, True, None),
        "empty-image": (alone, size, False, False, None),
        "empty-image-counted": (alone, size, False, True, None),
        "empty-batch": (none, size, False, False, None),
        "class-weight": (drawn, size, False, False, heavy),
        "class-weight-counted": (drawn, size, False, True, heavy),
    }
    for name, (mask, low, corners, counted, weights) in table.items():
        given = drawn_outputs(name, low, classes)
        results = mmseg_losses(mask, given, corners, counted, weights)
        record = {"mask": mask, "align_corners": corners, "avg_non_ignore": counted}
        if weights:
            record["class_weight"] = np.array(weights)
        for key, value in (given | record | results).items():
            arrays[f"losses/{name}/{key}"] = np.asarray(value)
    for name, mask in {"full": drawn, "ignored": some, "empty-image": alone}.items():
        given = drawn_outputs(f"paper-{name}", size, classes)
        for key, value in (given | {"mask": mask} | paper_losses(mask, given)).items():
            arrays[f"losses/paper-{name}/{key}"] = np.asarray(value)
    return arrays


def drawn_outputs(name, size, classes):
    """Random outputs of the three heads for two images, float32."""
    shapes = {"logits": (2, *size, classes), "aux": (2, *size, classes), "se": (2, classes)}
    return {k: (3 * noise(f"{name}/{k}", v)).astype("float32") for k, v in shapes.items()}


def leaves_of(given):
    """The given arrays as float64 PyTorch leaves, channels first."""
    import torch

    return {
        key: torch.from_numpy(np.moveaxis(value, -1, 1).astype("float64")).requires_grad_()
        for key, value in given.items()
    }


def grads_of(leaves):
    return {
        f"grad_{key}": np.moveaxis(leaf.grad.numpy(), 1, -1).astype("float32")
        for key, leaf in leaves.items()
    }


def mmseg_losses(mask, given, corners, counted, class_weight):
    from mmseg.registry import MODELS

    def criterion(loss_weight, **more):
        return dict(type="CrossEntropyLoss", loss_weight=loss_weight, **more)

    weighting = dict(avg_non_ignore=counted, class_weight=class_weight)
    common = dict(num_classes=given["se"].shape[1], align_corners=corners)
    main = MODELS.build(
        dict(type="EncHead", in_channels=[4, 4, 4], in_index=[1, 2, 3], channels=4, num_codes=2,
             loss_decode=criterion(1.0, **weighting),
             loss_se_decode=criterion(0.2, use_sigmoid=True), **common)
    )  # fmt: skip
    side = MODELS.build(
        dict(type="FCNHead", in_channels=4, in_index=2, channels=4, num_convs=1,
             concat_input=False, loss_decode=criterion(0.4, **weighting), **common)
    )  # fmt: skip
    leaves, samples = leaves_of(given), data_samples(mask)
    parts = main.loss_by_feat((leaves["logits"], leaves["se"]), samples)
    aux = side.loss_by_feat(leaves["aux"], samples)["loss_ce"]
    total = parts["loss_ce"] + parts["loss_se"] + aux
    total.backward()
    labels = main._stack_batch_gt(samples)
    return {
        "presence": main._convert_to_onehot_labels(labels, given["se"].shape[1]).numpy(),
        "pixel": parts["loss_ce"].item(),
        "aux_loss": aux.item(),
        "se_loss": parts["loss_se"].item(),
        "total": total.item(),
        **grads_of(leaves),
    }


def data_samples(masks):
    import torch
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    return [
        SegDataSample(gt_sem_seg=PixelData(data=torch.from_numpy(mask.astype("int64"))[None]))
        for mask in masks
    ]


def paper_losses(mask, given):
    import torch
    from encoding.nn.loss import SegmentationLosses

    target = torch.from_numpy(np.where(mask == 255, -1, mask.astype("int64")))
    leaves = leaves_of(given)
    classes = given["se"].shape[1]
    loss = SegmentationLosses(
        se_loss=True, se_weight=0.2, nclass=classes, aux=True, aux_weight=0.4, ignore_index=-1
    )
    total = loss(leaves["logits"], leaves["se"], leaves["aux"], target)
    total.backward()
    return {"total": total.item(), **grads_of(leaves)}


def sgd():
    import torch

    arrays, n = {}, 6
    rates = 0.1 * (1 - np.arange(5) / 5) ** 0.9
    matrix = noise("matrix", (n, n))
    matrix = matrix @ matrix.T + np.eye(n)
    vector = noise("vector", (n,))
    table = {
        "recipe": (0.9, 5e-4), "heavy-decay": (0.9, 0.1), "no-decay": (0.9, 0.0),
        "no-momentum": (0.0, 5e-4), "quadratic": (0.9, 5e-4),
    }  # fmt: skip
    for name, (momentum, decay) in table.items():
        start = noise(f"{name}/start", (n,))
        given = noise(f"{name}/gradients", (5, n))
        value = torch.from_numpy(start.copy()).requires_grad_()
        optimizer = torch.optim.SGD([value], lr=1.0, momentum=momentum, weight_decay=decay)
        steps, used = [], []
        for rate, gradient in zip(rates, given, strict=True):
            if name == "quadratic":
                gradient = matrix @ value.detach().numpy() - vector
            optimizer.param_groups[0]["lr"] = float(rate)
            value.grad = torch.from_numpy(gradient.copy())
            optimizer.step()
            steps.append(value.detach().numpy().copy())
            used.append(gradient)
        record = dict(start=start, gradients=used, rates=rates, steps=steps)
        record |= dict(momentum=momentum, weight_decay=decay)
        if name == "quadratic":
            record |= dict(matrix=matrix, vector=vector)
        for key, array in record.items():
            arrays[f"sgd/{name}/{key}"] = np.asarray(array)
    return arrays


WATCHED = (
    "backbone.stem.0.weight",
    "backbone.stem.1.bias",
    "backbone.stem.6.weight",
    "backbone.layer1.0.conv1.weight",
    "backbone.layer2.0.downsample.0.weight",
    "backbone.layer3.1.bn2.weight",
    "backbone.layer4.0.conv1.weight",
    "backbone.layer4.1.conv2.weight",
    "decode_head.bottleneck.conv.weight",
    "decode_head.enc_module.encoding_project.conv.weight",
    "decode_head.enc_module.encoding.0.codewords",
    "decode_head.enc_module.encoding.0.scale",
    "decode_head.enc_module.encoding.1.weight",
    "decode_head.enc_module.fc.0.weight",
    "decode_head.se_layer.weight",
    "decode_head.se_layer.bias",
    "decode_head.conv_seg.weight",
    "decode_head.conv_seg.bias",
    "auxiliary_head.convs.0.conv.weight",
    "auxiliary_head.conv_seg.weight",
)
RUNNING = (
    "backbone.stem.1",
    "backbone.layer2.0.downsample.1",
    "backbone.layer4.1.bn2",
    "decode_head.bottleneck.bn",
    "decode_head.enc_module.encoding_project.bn",
    "decode_head.enc_module.encoding.1",
    "auxiliary_head.convs.0.bn",
)


def training_step(oracles):
    """The arrays and the record of one training step of mmsegmentation's ResNet-18 EncNet."""
    import torch

    case = dict(depth=18, num_classes=19, align_corners=False, output_stride=8, laterals=False,
                se_head=True, weights_seed=2)  # fmt: skip
    pixels = np.stack([image(seed, 64, 64) for seed in (100, 101)])
    # Blocks of eight pixels in eight of the nineteen classes; a strip and a corner are ignored.
    coarse = np.floor((noise("blocks", (2, 8, 8)) + 1) * 4).astype("uint8") * 2
    masks = coarse.repeat(8, 1).repeat(8, 2)
    masks[0, :, 27:32], masks[1, 50:, :20] = 255, 255

    runs = {}
    for dtype in (torch.float32, torch.float64):
        model = mmseg_model(oracles, case, dropout_ratio=0.0).to(dtype).train()
        x = torch.from_numpy(normalized(pixels)).to(dtype)
        parts = {k: v for k, v in model.loss(x, data_samples(masks)).items() if "loss" in k}
        sum(parts.values()).backward()
        runs[dtype] = model, {key: value.item() for key, value in parts.items()}
    (rounded, _), (model, parts) = runs[torch.float32], runs[torch.float64]
    grads = {key: value.grad.numpy() for key, value in model.named_parameters()}
    rough = {key: value.grad.numpy() for key, value in rounded.named_parameters()}
    state = {key: value.numpy() for key, value in model.state_dict().items()}

    arrays = {"step/images": pixels, "step/masks": masks}
    for key in WATCHED:
        entries = sampled(key, grads[key].size)
        arrays[f"step/entries/{key}"] = entries
        arrays[f"step/gradient/{key}"] = grads[key].ravel()[entries]
    for norm in RUNNING:
        for key in (f"{norm}.running_mean", f"{norm}.running_var"):
            entries = sampled(key, state[key].size)
            arrays[f"step/running_entries/{key}"] = entries
            arrays[f"step/running/{key}"] = state[key][entries]
    record = {
        "architecture": "mmsegmentation-r18v1c",
        "num_classes": 19,
        "weights_seed": case["weights_seed"],
        "losses": {
            "pixel": parts["decode.loss_ce"],
            "aux": parts["aux.loss_ce"],
            "se": parts["decode.loss_se"],
            "total": sum(parts.values()),
        },
        "sum_of_squares": {key: float(np.square(grads[key]).sum()) for key in grads},
        "float32_error": {
            key: float(np.abs(rough[key] - grads[key]).max() / np.abs(grads[key]).max())
            for key in grads
        },
    }
    print(record["losses"], {key: record["float32_error"][key] for key in WATCHED})
    return arrays, record


def sampled(key, size, count=12):
    """Up to `count` distinct indices below `size`."""
    order = np.argsort(noise(f"{key}/entries", (size,)), kind="stable")
    return np.sort(order[:count]).astype("int32")


# Files


def write_json(name, value):
    """One line a record, so that a change shows in a diff."""
    lines = (f" {json.dumps(key)}: {json.dumps(value[key])}" for key in value)
    (HERE / name).write_text("{\n" + ",\n".join(lines) + "\n}\n")


def write_arrays(name, arrays):
    np.savez_compressed(HERE / name, **arrays)


if __name__ == "__main__":
    main()

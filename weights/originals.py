"""The PyTorch originals of the presets: writes checkpoints in the releases' formats, and runs them.

    <their environment>/bin/python weights/originals.py write RECORD.json CHECKPOINT
    <their environment>/bin/python weights/originals.py run RECORD.json CHECKPOINT OUTPUTS.npz 97x131 …

The environment needs `torch`, `mmsegmentation==1.2.2`, `mmcv-lite==2.1.0`, `mmengine`, `ftfy`, `regex`
and, without its dependencies, `torch-encoding==1.2.1`. Nothing has to be compiled: EncNet uses none of
mmcv's operators, and PyTorch-Encoding's two are replaced by the same formulas in PyTorch.

RECORD.json, written by `run_original` in `parity.py`, describes the network: `format`, `config` or
`backbone`, classes, names, colours. `write` fills the network with the weights of
`tests/golden/weights.py`. `run` loads a checkpoint with PyTorch's own reader and writes, for each size,
`SIZE/image` and its outputs: `SIZE/logits` and `SIZE/aux` `(height, width, classes)`, and `SIZE/se`
`(classes,)`.
"""

import functools
import importlib
import json
import pathlib
import sys
import types
import zipfile
from unittest import mock

import numpy as np
import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "tests" / "golden"))
from weights import image, state_dict

MEAN = np.float32([123.675, 116.28, 103.53])
STD = np.float32([58.395, 57.12, 57.375])


def main(command: str, record: str, checkpoint: str, *rest: str) -> None:
    record = json.loads(pathlib.Path(record).read_text())
    mmsegmentation = record["format"] == "mmsegmentation"
    if mmsegmentation:
        model, config = mmsegmentation_model(record["config"])
    else:
        model, config = pytorch_encoding_model(record), None
    if command == "write":
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        state = {key: torch.from_numpy(value) for key, value in state_dict(shapes).items()}
        if mmsegmentation:
            write_mmsegmentation(checkpoint, state, config, record)
        else:
            write_pytorch_encoding(checkpoint, state)
        return
    out, *sizes = rest
    model.load_state_dict(read(checkpoint), strict=True)
    model.eval()
    outputs = {}
    for size in sizes:
        height, width = map(int, size.split("x"))
        pixels = image(0, height, width)
        outputs[f"{size}/image"] = pixels
        for name, value in forward(model, pixels, mmsegmentation).items():
            outputs[f"{size}/{name}"] = value
    np.savez(out, **outputs)


def mmsegmentation_model(name: str):
    """mmsegmentation's EncoderDecoder of the config `name`, with plain batch norms, and the config."""

    class Extensions(types.ModuleType):
        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return functools.partial(missing, name)

    def missing(name, *_, **__):
        raise NotImplementedError(f"mmcv-lite has no compiled operator {name!r}")

    sys.modules.setdefault("mmcv._ext", Extensions("mmcv._ext"))
    import mmseg
    from mmengine.config import Config
    from mmseg.registry import MODELS
    from mmseg.utils import register_all_modules

    register_all_modules()
    configs = pathlib.Path(mmseg.__file__).parent / ".mim" / "configs" / "encnet"
    config = Config.fromfile(configs / f"{name}.py")
    config.model.pretrained = None
    for part in (config.model.backbone, config.model.decode_head, config.model.auxiliary_head):
        part.norm_cfg.type = "BN"
    return MODELS.build(config.model), config


def pytorch_encoding_model(record: dict) -> torch.nn.Module:
    """PyTorch-Encoding's EncNet as in its releases, with SE loss and auxiliary head."""
    package = types.ModuleType("encoding")
    package.__path__ = list(importlib.util.find_spec("encoding").submodule_search_locations)
    lib = types.ModuleType("encoding.lib")
    lib.cpu = lib.gpu = None
    package.lib = lib
    sys.modules.update(
        {"encoding": package, "encoding.lib": lib, "encoding.datasets": types.ModuleType("datasets")}
    )
    try:
        import torchvision  # noqa: F401
    except ImportError:
        # PyTorch-Encoding's modules create image transforms on import; EncNet uses none.
        vision = mock.MagicMock()
        sys.modules.update({"torchvision": vision, "torchvision.transforms": vision.transforms})

    def scaled_l2(x, codewords, scale):
        return scale * (x[:, :, None] - codewords).square().sum(-1)

    def aggregate(assignment, x, codewords):
        return (assignment[..., None] * (x[:, :, None] - codewords)).sum(1)

    for module in ("encoding.functions", "encoding.nn.encoding"):
        module = importlib.import_module(module)
        module.scaled_l2, module.aggregate = scaled_l2, aggregate

    base = importlib.import_module("encoding.models.sseg.base")
    encnet = importlib.import_module("encoding.models.sseg.encnet")
    backbone = base.get_backbone

    def untrained(name, pretrained=None, root=None, base_size=None, crop_size=None, **options):
        return backbone(name, pretrained=False, **options)

    base.get_backbone = untrained
    try:
        model = encnet.EncNet(
            record["num_classes"],
            record["backbone"],
            aux=True,
            se_loss=True,
            lateral=record["laterals"],
            norm_layer=torch.nn.BatchNorm2d,
        )
    finally:
        base.get_backbone = backbone
    # It makes a BatchNorm2d here, but the codes have the shape (B, K, C).
    encoding = model.head.encmodule.encoding
    encoding[4] = torch.nn.BatchNorm1d(encoding[4].num_features)
    return model


def write_mmsegmentation(path: str, state: dict, config, record: dict) -> None:
    """Writes the layout of the releases of 2020: legacy format, `meta` with the keys of 0.x."""
    meta = {
        "mmseg_version": "0.5.0",
        "config": config.pretty_text,
        "CLASSES": tuple(record["labels"]),
        "PALETTE": record["palette"],
    }
    torch.save({"meta": meta, "state_dict": state}, path, _use_new_zipfile_serialization=False)


def write_pytorch_encoding(path: str, state: dict) -> None:
    """Writes the releases' layout: a bare state dict with the ImageNet classifier, in a zip."""
    path = pathlib.Path(path)
    state["pretrained.fc.weight"] = torch.zeros(1000, 2048)
    state["pretrained.fc.bias"] = torch.zeros(1000)
    member = path.with_suffix(".pth")
    torch.save(state, member, _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.write(member, member.name)
    member.unlink()


def read(path: str) -> dict:
    """The state dict of a checkpoint, without the ImageNet classifier."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            members = [name for name in archive.namelist() if name.endswith(".pth")]
            if members:
                with archive.open(members[0]) as file:
                    return read_state(file)
    return read_state(path)


def read_state(file) -> dict:
    # `weights_only` is enough: besides tensors, the releases hold only plain Python values.
    state = torch.load(file, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    return {key: value for key, value in state.items() if not key.startswith("pretrained.fc.")}


def forward(model: torch.nn.Module, pixels: np.ndarray, mmsegmentation: bool) -> dict[str, np.ndarray]:
    """The outputs for one image `(height, width, 3)`."""
    x = torch.from_numpy(((pixels[None] - MEAN) / STD).transpose(0, 3, 1, 2).copy())
    with torch.inference_mode():
        if mmsegmentation:
            features, meta = model.extract_feat(x), [{"img_shape": pixels.shape[:2]}]
            logits, se = model.decode_head(features)
            logits = model.decode_head.predict_by_feat(logits, meta)
            aux = model.auxiliary_head.predict_by_feat(model.auxiliary_head(features), meta)
        else:
            logits, se, aux = model(x)
    return {
        "logits": logits[0].permute(1, 2, 0).numpy(),
        "aux": aux[0].permute(1, 2, 0).numpy(),
        "se": se[0].numpy(),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])

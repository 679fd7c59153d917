"""Writes `saved/sigmoid.npz`: what an EncNet of mmsegmentation with one output for two classes sees.

    <oracle environment>/bin/python tests/convert/make_sigmoid.py --oracles <path to oracles.py>

A ResNet-18 with `num_classes=2, out_channels=1` and the weights of `tests/golden/weights.py`:
`shapes`, JSON of its state dict's, and for two images, with a threshold of its own each,
`<seed>/label_map`, by mmsegmentation's own rule, and `<seed>/presence`, its SE head's probabilities.
"""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "golden"))
from weights import image, state_dict  # noqa: E402

MEAN, STD = np.float32([123.675, 116.28, 103.53]), np.float32([58.395, 57.12, 57.375])


def main():
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("--oracles", required=True, type=Path)
    spec = importlib.util.spec_from_file_location("oracles", parser.parse_args().oracles)
    oracles = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oracles)
    one = {"num_classes": 2, "out_channels": 1}
    loss = {"loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": True}}
    model, _ = oracles.mmseg_model(
        "encnet_r50-d8_4xb2-40k_cityscapes-512x1024",
        backbone={"depth": 18},
        decode_head={"in_channels": (128, 256, 512), "threshold": 0.3} | one | loss,
        auxiliary_head={"in_channels": 256, "channels": 64} | one | loss,
    )
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    state = {key: torch.from_numpy(value) for key, value in state_dict(shapes).items()}
    model.load_state_dict(state)
    model.eval()
    arrays = {"shapes": np.array(json.dumps(shapes))}
    for seed, size in enumerate(((64, 64), (97, 70))):
        pixels = image(seed, *size)
        x = torch.from_numpy(((pixels[None] - MEAN) / STD).transpose(0, 3, 1, 2).copy())
        with torch.inference_mode():
            _, se = model.decode_head(model.extract_feat(x))
            logits = model.encode_decode(x, [{"img_shape": size}])
            # A threshold that both classes reach, in the widest gap so that rounding decides nothing.
            values = np.sort(logits.sigmoid().numpy().ravel())
            middle = values[values.size * 2 // 5 : values.size * 3 // 5]
            at = int(np.diff(middle).argmax())
            threshold = float(middle[at] / 2 + middle[at + 1] / 2)
            print("gap", middle[at + 1] - middle[at])
            model.decode_head.threshold = threshold
            label_map = model.postprocess_result(logits)[0].pred_sem_seg.data[0]
        arrays[f"{seed}/threshold"] = np.array(threshold)
        arrays[f"{seed}/label_map"] = label_map.numpy().astype("uint8")
        arrays[f"{seed}/presence"] = se.sigmoid()[0].numpy()
        print(size, threshold, arrays[f"{seed}/label_map"].mean(), arrays[f"{seed}/presence"])
    np.savez_compressed(HERE / "saved" / "sigmoid.npz", **arrays)


if __name__ == "__main__":
    main()

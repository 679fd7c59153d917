"""Writes `saved/sigmoid.npz`: results of an mmsegmentation EncNet with one output for two classes.

    <oracle environment>/bin/python tests/convert/make_sigmoid.py --oracles <path to oracles.py>

The model is a ResNet-18 with `num_classes=2, out_channels=1`, built by `tests/golden/make.py`. The file
holds `shapes`, the shapes of its state dict as JSON, and for each of two images `<seed>/threshold`,
`<seed>/label_map`, by mmsegmentation's own rule, and `<seed>/presence`, the SE head's probabilities.
"""

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "golden"))
from make import given_oracles, mmseg_model, normalized  # noqa: E402

from weights import image  # noqa: E402

CASE = {
    "depth": 18,
    "num_classes": 2,
    "align_corners": False,
    "output_stride": 8,
    "laterals": False,
    "se_head": True,
    "weights_seed": 0,
}
ONE_OUTPUT = {
    "out_channels": 1,
    "threshold": 0.3,
    "loss_decode": {"type": "CrossEntropyLoss", "use_sigmoid": True},
}


def main():
    import torch

    model = mmseg_model(given_oracles(), CASE, **ONE_OUTPUT)
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    arrays = {"shapes": np.array(json.dumps(shapes))}
    for seed, size in enumerate(((64, 64), (97, 70))):
        pixels = image(seed, *size)
        x = torch.from_numpy(normalized(pixels[None]))
        with torch.inference_mode():
            _, se = model.decode_head(model.extract_feat(x))
            logits = model.encode_decode(x, [{"img_shape": size}])
            # In the widest gap between middle values: both classes occur, and rounding does not matter.
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

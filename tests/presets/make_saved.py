"""Writes `saved_by_0_1/`, a preset that every later version must be able to read.

Run it only to add a preset of a later version, under another name: PYTHONPATH=tests python this."""

import json
import pathlib

from golden.weights import image, weight
from keras_encnet import EncNet
from keras_encnet.convert import load_state
from keras_encnet.convert.state import variable_keys

here = pathlib.Path(__file__).parent
model = EncNet("resnet18", 3, width=0.125, head_channels=8, num_codes=4, laterals=True)
state = {}
for key, variable in variable_keys(model, "mmsegmentation"):
    shape = tuple(variable.shape)
    # Back to PyTorch's layout: (out, in, h, w), (out, in); codewords are (codes, channels) in both.
    if len(shape) == 4:
        shape = (shape[3], shape[2], *shape[:2])
    elif len(shape) == 2 and not key.endswith("codewords"):
        shape = shape[::-1]
    state[key] = weight(key, shape)
load_state(model, state, "mmsegmentation")
model.save_to_preset(here / "saved_by_0_1")
logits = model.predict(image(0, 40, 56)[None], verbose=0)[0, ::13, ::17]
(here / "saved_by_0_1.json").write_text(json.dumps({"logits": logits.tolist()}))

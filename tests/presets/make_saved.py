"""Writes `saved_by_0_1/`, a preset that every later version must be able to read."""

import json
import pathlib

import numpy as np
from golden.weights import image

from keras_encnet import EncNet

here = pathlib.Path(__file__).parent
model = EncNet("resnet18", 3, width=0.125, head_channels=8, num_codes=4, laterals=True)
rng = np.random.default_rng(0)
model.set_weights([w + rng.uniform(0, 0.1, w.shape) for w in model.get_weights()])
model.save_to_preset(here / "saved_by_0_1")
logits = model.predict(image(0, 40, 56)[None], verbose=0)[0, ::13, ::17]
(here / "saved_by_0_1.json").write_text(json.dumps({"logits": logits.tolist()}))

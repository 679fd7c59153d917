"""Writes `saved_by_keras_VERSION/`, a preset that every later version must be able to read, and its
outputs.

Run it only to add a preset of another version of Keras or of this package; never replace one:
PYTHONPATH=tests python tests/presets/make_saved.py
"""

import json
import pathlib

import keras

from golden.weights import image, weight
from keras_encnet import EncNet
from keras_encnet.convert import load_state
from keras_encnet.convert.state import pytorch_shape, variable_keys

here = pathlib.Path(__file__).parent / f"saved_by_keras_{keras.__version__}"
model = EncNet("resnet18", 3, width=1 / 16, head_channels=8, num_codes=4, laterals=True)
state = {
    key: weight(key, pytorch_shape(key, variable.shape))
    for key, variable in variable_keys(model, "mmsegmentation")
}
load_state(model, state, "mmsegmentation")
model.save_to_preset(here)
outputs = model.heads_network().predict_on_batch(image(0, 40, 56)[None].astype("float32"))
expected = {
    name: (value[0] if name == "se" else value[0, ::13, ::17]).tolist()
    for name, value in outputs.items()
}
here.with_name(f"{here.name}.json").write_text(json.dumps(expected))

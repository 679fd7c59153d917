"""From checkpoints of the PyTorch code bases to models.

`reading` opens a file and returns a `Checkpoint`: tensors by name, and metadata. `pytorch` makes a
model of it, with the help of the other modules:

- `architecture` finds the code base and the architecture in names and shapes,
- `settings` finds the other arguments of `EncNet` in the metadata,
- `names` maps our layers to the code base's names,
- `state` copies the weights.

A new file format is a branch in `reading.checkpoint`; what its reader makes, it takes from the file's
`reading.budget`. A new code base is a table in `names`, a key that
identifies it in `architecture.backbone_code_base_of`, and, if its files store settings, a reader for
them in `settings`.
"""

from keras_encnet.convert.pytorch import (
    backbone_from_checkpoint,
    encnet_from_checkpoint,
    is_backbone,
)
from keras_encnet.convert.reading import read_checkpoint
from keras_encnet.convert.state import load_state

__all__ = [
    "backbone_from_checkpoint",
    "encnet_from_checkpoint",
    "is_backbone",
    "load_state",
    "read_checkpoint",
]

"""Exports a saved model: `python -m keras_encnet.export.child`, with the job as JSON on standard input.

`export_model` runs this with the TensorFlow backend when another one is in use.
"""

import json
import pathlib
import sys

from keras_encnet.export.export import write_file
from keras_encnet.models.encnet import EncNet


def main():
    job = json.load(sys.stdin)
    write_file(
        EncNet.from_preset(job["preset"]),
        pathlib.Path(job["path"]),
        job["format"],
        job["calibration"],
        **job["options"],
    )


if __name__ == "__main__":
    main()

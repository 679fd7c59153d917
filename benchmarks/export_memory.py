"""What the label map of a large photograph costs on top of the network: memory and time.

    python benchmarks/export_memory.py [--size 3000x4000] [--classes 150] [--formats onnx …]
        [--evaluations "windows at own size" …]

exports a tiny network with many classes in each format and for each evaluation protocol, and runs it
in its own process, first on a small image and then on a large one. Prints how much the process grew at
its peak during the second run, in 10^6 bytes, and the seconds it took; the first row is
`model.segment`. Linux only.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import keras
from export_side import Exported
from processor import this_processor
from turns import HERE, Side, serve, size

from keras_encnet import EncNet
from keras_encnet.export import FORMATS

EVALUATIONS = {
    "whole": None,
    "ADE20K": {"resize": [2048, 512]},
    "Cityscapes 769": {"resize": [2049, 1025], "window": 769, "stride": 513},
    "windows at own size": {"window": 769, "stride": 513},
    "PyTorch-Encoding": {"resize": 520, "window": 480, "protocol": "pytorch-encoding"},
    "PyTorch-Encoding at own size": {"window": 480, "protocol": "pytorch-encoding"},
}


def main():
    if sys.argv[1:2] == ["--serve"]:
        return serve(lambda: ({}, Exported(segmenter(sys.argv[2], "confidence" in sys.argv)).answer))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=size, default=(3000, 4000), metavar="HEIGHTxWIDTH")
    parser.add_argument("--classes", type=int, default=150)
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--evaluations", nargs="+", choices=EVALUATIONS, default=list(EVALUATIONS))
    parser.add_argument("--outputs", nargs="+", default=["labels", "presence"])
    options = parser.parse_args()
    print(this_processor())
    print(f"{options.size[0]}×{options.size[1]}, {options.classes} classes")
    for name in options.evaluations:
        model = tiny(options.classes, EVALUATIONS[name])
        with tempfile.TemporaryDirectory(prefix="keras-encnet-") as scratch:
            model.save_to_preset(f"{scratch}/model")
            sides = [("segment", [Path(__file__), "--serve", f"{scratch}/model", *options.outputs])]
            for format in options.formats:
                path = model.export(Path(scratch, format), format, outputs=options.outputs)
                sides.append((format, [HERE / "export_side.py", path]))
            for side in sides:
                ask(name, *side, options.size)


def tiny(classes, evaluation):
    pixels = keras.Input((None, None, 3))
    features = keras.layers.Conv2D(8, 8, strides=8, padding="same")(pixels)
    backbone = keras.Model(pixels, [features, features])
    return EncNet(backbone, classes, head_channels=8, num_codes=4, evaluation=evaluation)


def segmenter(directory, confidence):
    model = EncNet.from_preset(directory)

    def run(images):
        (result,) = model.segment(list(images), confidence=confidence)
        return {"labels": result.label_map[None], "presence": result.presence[None]}

    return run


def ask(evaluation, name, command, shape):
    side = Side(name, [sys.executable, *command])
    side.ask(what="inference", height=256, width=256)
    reply = side.ask(what="inference", height=shape[0], width=shape[1])
    side.close()
    grown = reply["peak_mb"] - reply["before_mb"]
    print(f"{evaluation:26} {name:15} {grown:7.0f} MB {reply['seconds']:7.2f} s", flush=True)


if __name__ == "__main__":
    main()

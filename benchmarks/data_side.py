"""Serves images of ADE20K's training recipe, as one library prepares them, for timing.

    python benchmarks/data_side.py LIBRARY ROOT [--cores 1] [--images 64]

    {}
    {"seconds": 1.31, "images_per_second": 48.9}

ROOT is ADE20K's directory. A request reads `--images` random images in batches of four. LIBRARY is

- `ours`: `keras_encnet.data.batches`, which prepares them in threads;
- `ours_workers`: the same with `workers=`, one process per core;
- `mmseg`: mmsegmentation's own data set and pipeline, in one worker process of PyTorch's `DataLoader`
  per core, as in its training. OpenCV and PyTorch have no further threads;
- `mmseg_alone`: the same in a single process, which passes nothing to another one. Training would have
  to wait meanwhile.

The caller should discard the first answer.
"""

import argparse
import os
import time
from pathlib import Path

from turns import serve

BATCH = 4


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", choices=LIBRARIES)
    parser.add_argument("root", type=Path)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--images", type=int, default=64, help="images per request")
    options = parser.parse_args()
    # Before libraries are loaded, because some count the cores then.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])

    def prepare():
        versions, read = LIBRARIES[options.library](options.root, options.images, options.cores)

        def answer():
            start = time.perf_counter()
            read()
            seconds = time.perf_counter() - start
            return {"seconds": seconds, "images_per_second": options.images / seconds}

        return versions, answer

    serve(prepare)


def ours(root, images, cores, workers=0):
    import PIL

    from keras_encnet.data import batches, folder

    pairs = folder(
        root / "images" / "training",
        root / "annotations" / "training",
        label_map={0: 255, **{label + 1: label for label in range(150)}},
    )
    data = batches(
        pairs,
        size=(512, 512),
        resize=(2048, 512),
        batch_size=BATCH,
        augment=True,
        seed=0,
        workers=workers,
    )
    step = 0

    def read():
        nonlocal step
        for _ in range(images // BATCH):
            data.start_at(step)[0]
            step += 1
        step += 100  # what was prepared ahead must not count for the next request

    return {"Pillow": PIL.__version__}, read


def ours_workers(root, images, cores):
    return ours(root, images, cores, workers=cores)


def mmseg(root, images, workers):
    from mmseg_reference import stub_mmcv_extensions

    stub_mmcv_extensions()
    import cv2
    import mmseg
    import torch
    from mmengine.config import Config
    from mmengine.dataset import pseudo_collate
    from mmseg.datasets import ADE20KDataset
    from mmseg.utils import register_all_modules
    from torch.utils.data import DataLoader, RandomSampler

    register_all_modules()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    configs = Path(mmseg.__file__).parent / ".mim" / "configs"
    recipe = Config.fromfile(configs / "_base_" / "datasets" / "ade20k.py").train_dataloader.dataset
    dataset = ADE20KDataset(
        data_root=str(root), data_prefix=recipe.data_prefix, pipeline=recipe.pipeline
    )
    loader = DataLoader(
        dataset,
        batch_size=BATCH,
        sampler=RandomSampler(dataset, replacement=True, num_samples=images),
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=pseudo_collate,
    )
    versions = {"mmsegmentation": mmseg.__version__, "OpenCV": cv2.__version__}
    return {**versions, "PyTorch": torch.__version__}, lambda: [None for _ in loader]


def mmseg_alone(root, images, cores):
    return mmseg(root, images, workers=0)


LIBRARIES = {
    "ours": ours,
    "ours_workers": ours_workers,
    "mmseg": mmseg,
    "mmseg_alone": mmseg_alone,
}

if __name__ == "__main__":
    main()

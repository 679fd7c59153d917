"""Writes `resize_golden.npz`: images and masks as OpenCV resizes them.

    python tests/data/make_resize_golden.py

needs `pip install opencv-python-headless`.
"""

from pathlib import Path

import numpy as np

# (height, width) and channels before, (height, width) after.
CASES = [
    ((36, 40), 3, (18, 20)),  # exactly half
    ((36, 40), 4, (18, 20)),
    ((37, 41), 3, (18, 20)),
    ((36, 40), 3, (18, 33)),  # half in one direction
    ((36, 40), 3, (72, 80)),
    ((36, 40), 1, (25, 50)),
    ((36, 40), 3, (50, 25)),
    ((36, 40), 4, (7, 61)),
    ((36, 40), 3, (5, 6)),
    ((30, 20), 3, (41, 27)),
    ((20, 30), 3, (19, 29)),
    ((1, 1), 3, (4, 5)),
    ((1, 40), 3, (3, 17)),
    ((36, 1), 4, (61, 2)),
    ((36, 40), 3, (1, 1)),
    ((36, 40), 1, (1, 55)),
    ((2, 2), 3, (1, 1)),
    ((2, 3), 3, (31, 33)),
    # Positions from 1024 on have few bits behind the point in float32.
    ((1, 2049), 3, (1, 1431)),
    ((1, 3001), 1, (1, 3000)),
    ((2600, 1), 1, (3777, 1)),
]


def name(size, channels, new):
    return f"{size[0]}x{size[1]}x{channels}_{new[0]}x{new[1]}"


def main():
    import cv2

    cv2.setUseOptimized(False)
    cv2.ipp.setUseIPP(False)
    rng = np.random.default_rng(0)
    golden = {}
    for size, channels, new in CASES:
        image = rng.integers(0, 256, (*size, channels), dtype="uint8")
        image[rng.random(size) < 0.2] = 255
        linear = cv2.resize(image, new[::-1], interpolation=cv2.INTER_LINEAR)
        nearest = cv2.resize(image[..., 0], new[::-1], interpolation=cv2.INTER_NEAREST)
        golden["image/" + name(size, channels, new)] = image
        golden["linear/" + name(size, channels, new)] = linear.reshape(*new, channels)
        golden["nearest/" + name(size, channels, new)] = nearest
    np.savez_compressed(Path(__file__).with_name("resize_golden.npz"), **golden)


if __name__ == "__main__":
    main()

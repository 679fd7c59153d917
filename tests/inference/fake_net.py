"""A stand-in for EncNet with coarse logits that are the same in NumPy and PyTorch."""

import numpy as np

STRIDE = 8


def image(height=61, width=97):
    """A smooth, asymmetric RGB image."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + y / 23), np.cos(x / 17 - y / 7), np.sin((x + 2 * y) / 29 + 1)]
    return np.rint(127.5 + 120 * np.stack(waves, -1)).astype("uint8")


def coarse(images, num_classes):
    """Logits of images `(batch, height, width, 3)` at every eighth pixel."""
    pixels = np.asarray(images, "float32")[:, ::STRIDE, ::STRIDE] / 255
    mix = np.sin(1 + np.arange(3 * num_classes, dtype="float32").reshape(3, num_classes) * 2.3)
    return (4 * np.sin(5 * (pixels @ mix) + np.arange(num_classes))).astype("float32")


class FakeNet:
    def __init__(self, num_classes=5, align_corners=False, evaluation=None, presence=True):
        self.num_classes = num_classes
        self.align_corners = align_corners
        self.evaluation = evaluation
        self.labels = self.palette = None
        self.seen = []
        self.presence = presence

    def coarse_logits(self, images):
        assert images.ndim == 4 and images.shape[-1] == 3
        self.seen.append(images)
        logits = coarse(images, self.num_classes)
        presence = 1 / (1 + np.exp(-logits.mean((1, 2))))
        return logits, presence if self.presence else None

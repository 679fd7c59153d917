"""OpenCV, where it is installed: several times faster than NumPy."""

import types


def import_opencv() -> types.ModuleType | None:
    """The module `cv2`, or `None` where it is not installed, or its installation is broken."""
    try:
        import cv2
    except Exception:
        return None
    return cv2

"""How much memory the content of a file may take."""

from keras_encnet.convert.reading.errors import Refused

# Bytes that any file may take, and bytes for each byte of the file. A checkpoint of tensors takes its
# own size once or twice. One of NumPy arrays counts 10 times: 1 for the pickle in the zip, 4 for the
# text in which it holds an array, 4 for encoding the text, 1 for the array. The 64 MiB are for what a
# tiny file may need.
FLOOR, RATIO = 2**26, 16


class Budget:
    """The memory that may still be taken for one file, in bytes.

    Every reader draws on the same budget, and what was drawn is never returned. So it also limits the
    time: whatever a file can repeat costs something.

    Args:
        size: the file's size in bytes.

    >>> budget = Budget(1000)
    >>> budget.spend(2**26)
    >>> budget.left
    16000
    """

    def __init__(self, size: int):
        self.size, self.left = size, FLOOR + RATIO * size

    def spend(self, count: int) -> None:
        """Takes `count` bytes.

        Raises:
            Refused: if they are not left.
        """
        self.left -= count
        if self.left < 0:
            raise Refused(
                f"takes more than {FLOOR + RATIO * self.size} bytes of memory, but has only "
                f"{self.size} bytes. It copies the same data over and over, as a zip bomb does, or is "
                "far longer than weights need. Save only the model's `state_dict()`."
            )

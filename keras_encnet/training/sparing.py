import contextlib
import time
from collections.abc import Iterator

WAIT = 20  # times as long as it took: together, 5 % of the time


class Sparing:
    """Keeps what is done every now and then to 5 % of the time: after a second of it, 20 without."""

    def __init__(self):
        self._end, self._cost = time.monotonic(), 0.0

    def is_due(self, least: float = 0) -> bool:
        """Whether it may be done again, and the last time is `least` seconds ago."""
        return time.monotonic() - self._end > max(least, WAIT * self._cost)

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """Measures how long it takes, which is the block."""
        begin = time.monotonic()
        yield
        self._end = time.monotonic()
        self._cost = self._end - begin

"""A log that floods cannot fill: short lines, and few of each kind."""

import collections
import logging
import traceback
from pathlib import Path

SECONDS = 60  # of which the log has one line for each place that it comes from
LENGTH = 500


class Brief(logging.Formatter):
    """One line for a record; of an exception, its last line and where it was raised."""

    def format(self, record):
        text = " ".join(record.getMessage().split())
        if record.exc_info and record.exc_info[1]:
            error = record.exc_info[1]
            places = traceback.extract_tb(error.__traceback__)
            where = f" ({Path(places[-1].filename).name}:{places[-1].lineno})" if places else ""
            text += f" {type(error).__name__}: {' '.join(str(error).split())}{where}"
        return f"{self.formatTime(record)} {record.levelname} {text[:LENGTH]}"


class Seldom(logging.Filter):
    """Lets one record pass in `SECONDS` from each place in the code, and counts the others."""

    def __init__(self):
        super().__init__()
        self.last, self.left_out = {}, collections.Counter()

    def filter(self, record):
        place = record.pathname, record.lineno
        if record.created - self.last.get(place, 0) < SECONDS:
            self.left_out[place] += 1
            return False
        self.last[place] = record.created
        if count := self.left_out.pop(place, 0):
            record.msg, record.args = f"{record.getMessage()} (and {count:,} times before)", None
        return True


def set_up():
    handler = logging.StreamHandler()
    handler.setFormatter(Brief())
    handler.addFilter(Seldom())
    logging.basicConfig(level=logging.WARNING, handlers=[handler])

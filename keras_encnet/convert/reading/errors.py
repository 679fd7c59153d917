"""Why a file is not read."""


class Refused(ValueError):
    """Why a file is not read: a sentence without its subject, such as "is a tar file.".

    `read_checkpoint` puts the file's path in front.
    """


def damaged(detail: str) -> Refused:
    """The error for a truncated or damaged file; `detail` says what is wrong with it."""
    return Refused(f"is truncated or damaged ({detail}). Download or copy it again.")


def quoted(text: str) -> str:
    """A name from a file, in quotes and shortened, for a message."""
    return repr(text if len(text) <= 80 else text[:77] + "...")

"""Messages in the words of the command line. It imports nothing heavy."""

import re
import shlex

from keras_encnet.cli_arguments import COMMANDS


def in_options(text: str, command: str) -> str:
    """A message with a command's options in the place of the arguments of Python functions.

    Args:
        text: the message, with arguments in backquotes.
        command: a name in `COMMANDS`.

    >>> in_options("Pass `image_size`, `resize=False` or `seed='a b'`.", "segment")
    "Pass `image_size`, --no-resize or `seed='a b'`."
    >>> in_options("Pass `labels={1: 'scratch', 2: 'dent'}`, `images='photos/*.jpg'`.", "train")
    "Pass --labels 1:scratch,2:dent, --images 'photos/*.jpg'."
    """
    options = {names[0].lstrip("-").replace("-", "_"): names[0] for names, _ in COMMANDS[command][2]}

    def option(match):
        name, value, named, off = match.groups()
        name = f"no_{name}" if off else name
        if named:  # a dict
            value = ",".join(re.sub("['\" ]", "", each) for each in named.split(", "))
        given = [shlex.quote(value)] if value else []
        return " ".join([options[name], *given]) if name in options else match[0]

    text = re.sub(r"`(\w+)(?:=(?:'([^'`]*)'|\{([^`]*)\}|(False))?)?`", option, text)
    return text.replace("`keras_encnet.list_presets()`", "`keras-encnet presets`")

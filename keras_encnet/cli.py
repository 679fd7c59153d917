"""The command line: what all commands share. Their arguments are in `cli_arguments.py`.

Keras takes seconds to import. So this module imports nothing heavy: a command is imported, from
`commands.py`, when its arguments are known to be good.
"""

import contextlib
import logging
import os
import pathlib
import sys
import tempfile
import warnings

from keras_encnet.cli_arguments import make_parser
from keras_encnet.cli_words import in_options

TF_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the arguments, by default those of the process.

    Returns:
        The exit status: 0, 1 after an error or if `check-data` found problems, 130 after Ctrl-C, 141 if
        standard output was closed.

    Raises:
        SystemExit: with status 2 for wrong arguments, 0 for `--help` and `--version`.

    >>> main(["presets"])
    name ...
    0
    """
    arguments = make_parser().parse_args(argv)
    # What these hold is no setting of a command.
    command, check, error = (vars(arguments).pop(name) for name in ("command", "check", "error"))
    check(arguments, error)
    program = f"keras-encnet {command}"

    def warn(message, *_):
        _say(f"{program}: warning: {' '.join(_text(message, command).split())}")

    with warnings.catch_warnings():
        warnings.showwarning = warn
        # Of libraries about each other; ours are none of these.
        warnings.simplefilter("ignore", FutureWarning)
        try:
            with _quiet_imports():
                from keras_encnet import commands

                # Keras imports it anyway, on every backend, when it first serializes a layer.
                with contextlib.suppress(ImportError):
                    import tensorflow  # noqa: F401
            status = getattr(commands, command.replace("-", "_"))(arguments)
            sys.stdout.flush()
        except BrokenPipeError:
            # `| head` has read enough. Python would fail again when it flushes at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except (ValueError, OSError, ImportError) as problem:
            _say(f"{program}: {_text(problem, command)}")
            return 1
        except KeyboardInterrupt:
            _say(f"\nStopped.{_how_to_resume(arguments)}")
            return 130
    return status or 0


# === What is written to standard error ===


def _say(text):
    print(text, file=sys.stderr, flush=True)


def _text(problem, command):
    """An error or warning in the command line's words: `--image-size` instead of `image_size`."""
    text = problem.text(command_line=True) if hasattr(problem, "text") else str(problem)
    if isinstance(problem, OSError) and problem.filename:
        text = f"{problem.filename}: {problem.strerror}"
    return in_options(text, command)


def _how_to_resume(arguments):
    given = vars(arguments)
    kept = []
    if given.get("out"):
        kept += pathlib.Path(given["out"], "training").glob("step-*.keras")
    for directory in filter(None, (given.get("report"), given.get("save_predictions"))):
        records = pathlib.Path(directory, ".evaluation", "records.jsonl")
        kept += [records] if records.exists() and records.stat().st_size else []
    return " Run the same command again to resume." if kept else ""


@contextlib.contextmanager
def _quiet_imports():
    """Keeps TensorFlow's notices off the terminal, unless its log level is set to 0.

    Some are written at every log level. So standard error goes to a file during the import, and is
    shown only if that fails.
    """
    if os.environ.setdefault(TF_LOG_LEVEL, "3") == "0" or sys.stderr is None:
        yield
        return
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    with tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        terminal = os.dup(2)
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except BaseException:
            kept.seek(0)
            os.write(terminal, kept.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


if __name__ == "__main__":
    sys.exit(main())

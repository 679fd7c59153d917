"""Runs parts of this package in processes of their own."""

import json
import os
import pathlib
import subprocess
import sys


def run_python(
    arguments: list[str], job: dict, *, timeout: float | None = None, **environment: str
) -> subprocess.CompletedProcess:
    """Runs `python arguments…` with `job` as JSON on its standard input, without a GPU.

    Args:
        arguments: such as `["-m", "keras_encnet.export.child"]`.
        job: what it is to do.
        timeout: seconds that it may take.
        environment: environment variables to change.

    Returns:
        The completed process, with its output as text.

    Raises:
        subprocess.TimeoutExpired: if it takes longer; it is killed.
    """
    root = str(pathlib.Path(__file__).resolve().parents[1])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    # This process may be using the GPU.
    environment = {**os.environ, **environment, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "-1"}
    command = [sys.executable, *arguments]
    return subprocess.run(
        command,
        input=json.dumps(job),
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def last_lines(process: subprocess.CompletedProcess) -> str:
    """The end of what a process wrote to its standard error, for messages."""
    return "\n".join(process.stderr.strip().splitlines()[-5:]) or "no message"

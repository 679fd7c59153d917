"""A run that is killed again and again ends as if it had not been."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")
def test_kills_change_nothing():
    result = subprocess.run(
        [sys.executable, Path(__file__).with_name("kills.py"), "--kills", "5"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "the same, bit for bit" in result.stdout

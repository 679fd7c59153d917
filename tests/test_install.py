"""Installing the package into an environment changes nothing that is there."""

import importlib.metadata
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
# What a notebook has; the tests of other environments have other things besides.
PINNED = dict(
    line.split("==") for line in ROOT.joinpath("tests/colab.txt").read_text().split() if "==" in line
)


def canonical(name):
    return name.lower().replace("_", "-").replace(".", "-")


@pytest.mark.slow
def test_pip_install_changes_no_version(tmp_path):
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--report", report, ROOT]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode and "No matching distribution found for hatchling" in done.stderr:
        pytest.skip("needs a package index")
    assert done.returncode == 0, done.stderr
    installed = {canonical(each.metadata["Name"]) for each in importlib.metadata.distributions()}
    new = {canonical(each["metadata"]["name"]) for each in json.loads(report.read_text())["install"]}
    assert "keras-encnet" in new
    assert new & installed <= {"keras-encnet"}


def test_the_oldest_keras_is_the_one_that_is_pinned():
    pyproject = ROOT.joinpath("pyproject.toml").read_text()
    oldest = pyproject.split('"keras>=')[1].split('"')[0]
    assert PINNED["keras"].startswith(f"{oldest}.")

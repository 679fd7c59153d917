import fake_model
import pytest
from live import running


@pytest.fixture(scope="session")
def packages():
    """What the server needs and the package does not."""
    for name in ("onnx", "onnxruntime", "starlette", "uvicorn", "prometheus_client"):
        pytest.importorskip(name)


@pytest.fixture(scope="session")
def model(packages, tmp_path_factory):
    path = tmp_path_factory.mktemp("serving") / "fake.onnx"
    fake_model.write(path)
    return path


@pytest.fixture(scope="session")
def server(model):
    """One for all tests that leave it as it was, with limits small enough to be exceeded."""
    options = ("--max-body", 300_000, "--max-pixels", 1_000_000, "--body-timeout", 1.5)
    with running(model, *options) as server:
        yield server

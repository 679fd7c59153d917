import fake_model
import pytest
from live import running


@pytest.fixture(scope="session")
def packages():
    """Skips tests where a package that the server needs is missing."""
    for name in ("onnx", "onnxruntime", "starlette", "uvicorn", "prometheus_client"):
        pytest.importorskip(name)


@pytest.fixture(scope="session")
def model(packages, tmp_path_factory):
    path = tmp_path_factory.mktemp("serving") / "fake.onnx"
    fake_model.write(path)
    return path


@pytest.fixture(scope="session")
def server(model):
    """A server shared by all tests that do not change it, with limits small enough to exceed."""
    options = ("--max-body", 300_000, "--max-pixels", 1_000_000, "--body-timeout", 1.5)
    with running(model, *options) as server:
        yield server

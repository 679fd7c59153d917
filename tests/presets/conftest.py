import pytest
from hub_server import Hub
from huggingface_hub import constants


@pytest.fixture
def client(monkeypatch, tmp_path):
    """Sets the client's settings, which it reads from the environment on import."""

    def client(**values):
        for name, value in values.items():
            monkeypatch.setattr(constants, name, value)

    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_OIDC_RESOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    client(
        HF_HUB_CACHE=str(tmp_path / "cache"),
        HF_TOKEN_PATH=str(tmp_path / "token"),
        HF_HUB_DISABLE_XET=True,
        HF_HUB_OFFLINE=False,
    )
    # Don't wait between the client's attempts.
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    return client


@pytest.fixture
def hub(client):
    with Hub(tokens={"hf_ada": "ada", "hf_bob": "bob"}) as hub:
        template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        client(ENDPOINT=hub.url, HUGGINGFACE_CO_URL_TEMPLATE=template)
        yield hub
    assert not hub.leaked, "The storage host received an access token."

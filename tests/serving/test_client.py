"""The client for TensorFlow Serving, against a server that speaks its REST format."""

import base64
import http.server
import json
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
from live import SERVING, photo, png
from PIL import Image

LABELS = png(np.arange(12, dtype="uint8").reshape(3, 4))


class Fake(http.server.BaseHTTPRequestHandler):
    """Answers like TensorFlow Serving's REST interface, in its row format."""

    def do_POST(self):
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.questions.append((self.path, question))
        if self.server.other is not None:
            self.reply(200, self.server.other)
            return
        if self.path != "/v1/models/encnet:predict":
            self.reply(404, {"error": "Servable not found for request: Latest(other)"})
            return
        files = [base64.b64decode(each["image_bytes"]["b64"]) for each in question["instances"]]
        readable = [file.startswith((b"\x89PNG", b"\xff\xd8")) for file in files]
        self.reply(
            200,
            {
                "predictions": [
                    {
                        "labels_bytes": {"b64": base64.b64encode(LABELS if ok else b"").decode()},
                        "ok": ok,
                    }
                    for ok in readable
                ]
            },
        )

    def reply(self, status, record):
        body = json.dumps(record).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def fake():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fake) as server:
        server.questions, server.other = [], None
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "street.png").write_bytes(png(photo()))
    (tmp_path / "notes.jpg").write_text("not an image")
    return tmp_path


def client(folder, port, *arguments):
    command = [sys.executable, str(SERVING / "client.py"), "--url", f"http://127.0.0.1:{port}/"]
    return subprocess.run([*command, *arguments], cwd=folder, capture_output=True, text=True)


def test_the_label_map_is_written_next_to_the_photo(fake, folder):
    done = client(folder, fake.server_port, "street.png")
    assert (done.returncode, done.stdout) == (0, "street.labels.png\n")
    labels = np.asarray(Image.open(folder / "street.labels.png"))
    np.testing.assert_array_equal(labels, np.arange(12).reshape(3, 4))
    [(path, question)] = fake.questions
    assert path == "/v1/models/encnet:predict"
    encoded = base64.b64encode((folder / "street.png").read_bytes()).decode()
    assert question == {
        "signature_name": "from_bytes",
        "instances": [{"image_bytes": {"b64": encoded}}],
    }


def test_invalid_images_are_named_and_the_others_segmented(fake, folder):
    done = client(folder, fake.server_port, "notes.jpg", "missing.jpg", "street.png")
    assert done.returncode == 1
    first, second = done.stderr.splitlines()
    assert first.startswith("notes.jpg: ") and "could not read" in first
    assert second.startswith("missing.jpg: ")
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["notes.jpg", "street.labels.png", "street.png"]


@pytest.mark.parametrize(
    "answer", [{}, [], {"predictions": [1]}, {"predictions": [{"ok": True}]}, {"predictions": []}]
)
def test_an_answer_of_another_model_is_an_error_of_one_line(fake, folder, answer):
    fake.other = answer
    done = client(folder, fake.server_port, "street.png")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "must answer with one prediction of an exported EncNet. Received: " in line


def test_a_server_that_does_not_speak_http_is_an_error_of_one_line(folder):
    with socket.create_server(("127.0.0.1", 0)) as other:

        def answer():
            with other.accept()[0] as connection:
                connection.recv(1 << 16)
                connection.sendall(b"220 mail.example\r\n")

        threading.Thread(target=answer, daemon=True).start()
        done = client(folder, other.getsockname()[1], "street.png")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "must be TensorFlow Serving. Received: no HTTP" in line


def test_a_server_that_refuses_or_is_missing_is_named(fake, folder):
    done = client(folder, fake.server_port, "street.png", "--model", "other")
    assert done.returncode == 1
    assert "404" in done.stderr and "Servable not found" in done.stderr
    with http.server.HTTPServer(("127.0.0.1", 0), Fake) as unused:
        port = unused.server_port
    done = client(folder, port, "street.png")
    assert done.returncode == 1
    assert "Is the server running?" in done.stderr
    assert "Traceback" not in done.stderr
    done = client(folder, port, "street.png", "--url", f"localhost:{port}")
    assert "must begin with http://" in done.stderr and f"'localhost:{port}'" in done.stderr

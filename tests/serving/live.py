"""A server in a separate process, and images to send to it."""

import contextlib
import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

SERVING = Path(__file__).parents[2] / "examples" / "serving"
sys.path.append(str(SERVING))  # so that tests can import the server's modules


class Server:
    """A server in a separate process, and requests to it."""

    def __init__(self, process, port, log):
        self.process, self.port, self.log = process, port, log

    def connect(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def request(self, method, path, body=None, **headers):
        """`(status, headers, bytes)` of an answer."""
        with contextlib.closing(self.connect()) as connection:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def get(self, path):
        return self.request("GET", path)

    def segment(self, body, accept="application/json", query=""):
        """`(status, answer)`: the decoded JSON, or the bytes of the PNG."""
        status, headers, answer = self.request("POST", f"/segment{query}", body, Accept=accept)
        is_json = headers["Content-Type"] == "application/json"
        return status, json.loads(answer) if is_json else answer

    @contextlib.contextmanager
    def raw(self, *pieces):
        """A connection over which `pieces` have been sent."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            for piece in pieces:
                connection.sendall(piece)
            yield connection

    def metric(self, name):
        text = self.get("/metrics")[2].decode()
        return next(
            float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + " ")
        )

    def log_lines(self):
        self.log.seek(0)
        return self.log.read().splitlines()

    def memory(self):
        return self.metric("process_resident_memory_bytes")

    def stop(self, patience=20):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(patience)


def reply(connection):
    """`(status, headers, bytes)` of the answer on a raw connection."""
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    return answer.status, answer.headers, answer.read()


@contextlib.contextmanager
def running(model, *options, before=None):
    """A server with a model file and options; `before` is called in its process first."""
    command = [
        sys.executable,
        str(SERVING / "server.py"),
        str(model),
        "--port",
        "0",
        *map(str, options),
    ]
    # The server must not need this package.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    log = tempfile.TemporaryFile("w+")
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment, preexec_fn=before
    )
    try:
        line = process.stdout.readline()
        assert line, "the server did not start"
        yield Server(process, int(line.strip().rsplit(":", 1)[1]), log)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        log.close()


def photo(height=48, width=64, work=0, seed=0):
    """Random `uint8` pixels, for which the fake model takes about `work` milliseconds."""
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), "uint8")
    image[:16, :16] = 0  # a complete block, so that JPEG keeps the first pixel
    image[0, 0, 0] = work
    return image


def png(image, **options):
    return written(image, "PNG", **options)


def written(image, format, mode=None, **options):
    picture, out = Image.fromarray(image), io.BytesIO()
    (picture.convert(mode) if mode else picture).save(out, format, **options)
    return out.getvalue()

"""Downloads from a local server that breaks off, lies and refuses."""

import contextlib
import errno
import hashlib
import http.server
import importlib
import io
import re
import socket
import sys
import threading
import time
import types
import urllib.error
import urllib.request
import zipfile

import numpy as np
import pytest

module = importlib.import_module("keras_encnet.presets.download")
download = module.download

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256, SHA1 = hashlib.sha256(CONTENT).hexdigest(), hashlib.sha1(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Sends `content` as its attributes specify, and records the requested ranges."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.version, self.asked = CONTENT, {"ETag": '"1"'}, []
        self.break_after = []  # bytes to send in the first answers; later ones are complete
        self.statuses = []  # of the first answers; later ones are 200 or 206
        self.ranges = self.conditions = self.sends_length = True
        self.url = f"http://127.0.0.1:{self.server_port}/models/weights-{SHA256[:8]}.pth"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        wanted, condition = self.headers["Range"], self.headers["If-Range"]
        server.asked.append(wanted)
        if server.statuses:
            status = server.statuses.pop(0)
            if status == "silence":
                return time.sleep(0.6)
            if status in (301, 302):
                self.send_response(status)
                self.send_header("Location", server.location)
                return self.end_headers()
            if status == "slow headers":
                with contextlib.suppress(OSError):
                    self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                    for _ in range(1000):
                        self.wfile.write(b"A: b\r\n")
                        time.sleep(0.02)
                return None
            return self.send_error(status)
        start, status = 0, 200
        same = condition in server.version.values() or not server.conditions
        if wanted and server.ranges and same:
            start, status = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]), 206
            if start >= len(server.content):
                return self.send_error(416)
        body = server.content[start:]
        self.send_response(status)
        if server.sends_length:
            self.send_header("Content-Length", str(len(body)))
        if status == 206:
            end, length = len(server.content) - 1, len(server.content)
            self.send_header("Content-Range", f"bytes {start}-{end}/{length}")
        for name, value in server.version.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: server.break_after.pop(0)] if server.break_after else body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "PAUSE", 0.0)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "downloads" / "weights.pth"


def files(path):
    """The names of the files that are there; lock files stay."""
    there = path.parent.iterdir() if path.parent.exists() else ()
    return {file.name for file in there if file.suffix != ".lock"}


@pytest.mark.parametrize(
    "checks",
    [{}, {"sha256": SHA256}, {"sha256": SHA256[:8].upper()}, {"sha1": SHA1, "sha256": SHA256}],
)
def test_file_arrives(server, path, checks, capsys):
    assert download(server.url, path, **checks) == path
    assert path.read_bytes() == CONTENT
    assert files(path) == {"weights.pth"}
    assert capsys.readouterr() == ("", "")
    # The second time the file is there.
    assert download(server.url, str(path), **checks) == path
    assert server.asked == [None]


def test_broken_transfer_resumes(server, path):
    server.break_after = [100_000, 50_000]
    download(server.url, path, sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]


@pytest.mark.parametrize(
    "version", [{"ETag": '"1"'}, {"Last-Modified": "Sun, 21 Jun 2020 22:09:58 GMT"}]
)
def test_another_process_resumes_after_a_kill(server, path, monkeypatch, version):
    server.version = version
    server.break_after = [100_000]
    monkeypatch.setattr(module, "TRIES", 1)
    with pytest.raises(ConnectionError, match=r"closed after .* 100000 bytes .*are kept"):
        download(server.url, path)
    assert not path.exists()
    assert path.with_name("weights.pth.part").read_bytes() == CONTENT[:100_000]
    download(server.url, path)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-"]
    assert files(path) == {"weights.pth"}


def broken(server, path, monkeypatch):
    server.break_after = [100_000]
    monkeypatch.setattr(module, "TRIES", 1)
    with pytest.raises(ConnectionError):
        download(server.url, path)
    monkeypatch.setattr(module, "TRIES", 5)
    server.asked.clear()


def test_killed_between_the_last_byte_and_the_check(server, path, monkeypatch):
    broken(server, path, monkeypatch)
    path.with_name("weights.pth.part").write_bytes(CONTENT)
    download(server.url, path, sha256=SHA256)
    assert path.read_bytes() == CONTENT and server.asked == []


def test_server_without_ranges(server, path, monkeypatch):
    server.ranges = False
    broken(server, path, monkeypatch)
    download(server.url, path)
    assert path.read_bytes() == CONTENT
    assert server.asked == ["bytes=100000-"]


@pytest.mark.parametrize("version", [{}, {"ETag": 'W/"1"'}])
def test_server_that_does_not_identify_the_file(server, path, monkeypatch, version):
    server.version = version
    broken(server, path, monkeypatch)
    download(server.url, path)
    assert path.read_bytes() == CONTENT and server.asked == [None]


def test_server_that_does_not_send_the_length(server, path):
    server.sends_length = False
    download(server.url, path, sha256=SHA256)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("conditions", [True, False])
@pytest.mark.parametrize("content", [CONTENT[::-1], CONTENT[::-1] + b"longer", CONTENT[50_000::-1]])
def test_file_that_changed_in_between(server, path, monkeypatch, content, conditions):
    broken(server, path, monkeypatch)
    server.content, server.version, server.conditions = content, {"ETag": '"2"'}, conditions
    download(server.url, path)
    assert path.read_bytes() == content
    assert server.asked[0] == "bytes=100000-"


def test_file_that_changed_under_the_same_version(server, path, monkeypatch):
    broken(server, path, monkeypatch)
    server.content = CONTENT + b"longer"
    download(server.url, path)
    assert path.read_bytes() == CONTENT + b"longer"


@pytest.mark.parametrize("part", [CONTENT + b"more", b""])
def test_impossible_part(server, path, monkeypatch, part):
    broken(server, path, monkeypatch)
    path.with_name("weights.pth.part").write_bytes(part)
    download(server.url, path)
    assert path.read_bytes() == CONTENT and server.asked == [None]


@pytest.mark.parametrize("state", ["", "{", "[]", '{"url": 1}', "null"])
def test_part_with_a_damaged_state(server, path, monkeypatch, state):
    broken(server, path, monkeypatch)
    path.with_name("weights.pth.part.json").write_text(state)
    download(server.url, path)
    assert path.read_bytes() == CONTENT and server.asked == [None]


def test_part_from_another_address(server, path, monkeypatch):
    broken(server, path, monkeypatch)
    download(server.url + "?v=2", path)
    assert path.read_bytes() == CONTENT and server.asked == [None]


@pytest.mark.parametrize("checks", [{"sha256": "deadbeef"}, {"sha1": SHA1[::-1]}])
def test_wrong_checksum(server, path, checks):
    with pytest.raises(ValueError) as caught:
        download(server.url, path, **checks)
    (expected,) = checks.values()
    found = SHA256[:8] if "sha256" in checks else SHA1
    assert all(text in str(caught.value) for text in (server.url, expected, found, "deleted"))
    assert files(path) == set()


def test_existing_file_that_is_damaged(server, path):
    path.parent.mkdir()
    path.write_bytes(b"not it")
    with pytest.raises(ValueError, match="deleted"):
        download(server.url, path, sha256=SHA256)
    assert files(path) == set()
    download(server.url, path, sha256=SHA256)
    assert path.read_bytes() == CONTENT


def zipped(member="weights.pth"):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, CONTENT)
    return buffer.getvalue()


def test_checksum_of_a_member(server, path):
    server.content = zipped()
    download(server.url, path, sha1=SHA1, member="weights.pth")
    assert path.read_bytes() == server.content


@pytest.mark.parametrize(
    "content, reason",
    [
        (zipped("other.pth"), "weights.pth"),
        (CONTENT, "not a zip"),
        (zipped()[:150_000] + b"x" + zipped()[150_001:], "none|CRC"),
    ],
)
def test_member_that_is_missing_or_damaged(server, path, content, reason):
    server.content = content
    with pytest.raises(ValueError, match=f"Received: .*({reason}).*damaged"):
        download(server.url, path, sha1=SHA1, member="weights.pth")
    assert files(path) == set()


@pytest.mark.parametrize("digits", ["", "1234567", "g" * 8, "0" * 65])
def test_invalid_checksum(server, path, digits):
    with pytest.raises(ValueError, match=f"8 to 64 hexadecimal digits. Received: {digits!r}"):
        download(server.url, path, sha256=digits)
    assert server.asked == []


@pytest.mark.parametrize("url", ["ftp://host/file", "file:///etc/passwd", "weights.pth", "data:,x"])
def test_only_http(path, url):
    with pytest.raises(ValueError, match=f"http:// or https://. Received: {url!r}"):
        download(url, path)


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1:1/x"])
def test_redirect_to_another_scheme(server, path, location):
    server.statuses, server.location = [302], location
    with pytest.raises(ConnectionError):
        download(server.url, path)
    assert files(path) == set()


def test_redirect(server, path):
    server.statuses, server.location = [302], server.url + "?moved"
    download(server.url, path, sha256=SHA256)
    assert server.asked == [None, None]


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_server_that_refuses(server, path, status):
    server.statuses = [status]
    with pytest.raises(
        ConnectionError, match=rf"answered {status} .*put it at .*weights\.pth"
    ) as caught:
        download(server.url, path)
    assert server.url in str(caught.value)
    assert server.asked == [None] and files(path) == set()


def test_busy_server(server, path):
    server.statuses = [503, 429, 500]
    download(server.url, path)
    assert path.read_bytes() == CONTENT
    server.statuses = [503] * 5
    with pytest.raises(ConnectionError, match="failed 5 times in a row: it answered 503"):
        download(server.url, path.with_name("other"))


def test_server_that_keeps_breaking_off(server, path):
    server.break_after = [0] * 5
    with pytest.raises(ConnectionError, match="failed 5 times in a row.*0 of 300000 bytes"):
        download(server.url, path)
    # Tries that receive something don't count.
    server.break_after = [10] * 20
    download(server.url, path)
    assert path.read_bytes() == CONTENT


def test_silent_server(server, path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    monkeypatch.setattr(module, "TRIES", 2)
    server.statuses = ["silence"] * 2
    with pytest.raises(TimeoutError, match="failed 2 times in a row: it did not answer for 0.2 s"):
        download(server.url, path)


def test_no_network(path, monkeypatch):
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    def getaddrinfo(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    url = "http://download.example/weights.pth"
    with pytest.raises(
        ConnectionError, match="Cannot reach download.example.*Name or service"
    ) as caught:
        download(url, path)
    assert url in str(caught.value) and "Kaggle" in str(caught.value) and str(path) in str(caught.value)
    assert files(path) == set()


def test_nothing_listens(server, path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionError, match=f"Cannot reach 127.0.0.1:{port}.*refused"):
        download(f"http://127.0.0.1:{port}/weights.pth", path)


@pytest.mark.parametrize("value", ["1", "true", "ON"])
def test_offline(server, path, monkeypatch, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    with pytest.raises(ConnectionError, match="HF_HUB_OFFLINE is set") as caught:
        download(server.url, path)
    assert server.url in str(caught.value) and str(path) in str(caught.value)
    assert server.asked == [] and not path.parent.exists()
    # A file put there by hand is used.
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    assert download(server.url, path, sha256=SHA256) == path


def test_full_disk(server, path, monkeypatch):
    class Full(io.BytesIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "open", lambda *_: Full(), raising=False)
    with pytest.raises(OSError, match="disk is full.*KERAS_ENCNET_CACHE") as caught:
        download(server.url, path)
    assert str(path.parent) in str(caught.value)
    assert not isinstance(caught.value, ConnectionError) and not path.exists()


def test_unwritable_directory(server, path):
    path.parent.write_text("a file in its place")
    with pytest.raises(OSError, match="cannot be written.*KERAS_ENCNET_CACHE"):
        download(server.url, path)
    assert server.asked == []


@pytest.fixture
def no_overrides(monkeypatch):
    """Removes the variables with which Rich takes anything for a terminal."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "TERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)


def test_progress_bar(server, path, capsys, monkeypatch, no_overrides):
    server.break_after = [100_000]
    download(server.url, path, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert server.url in err and re.search("100% ━{20,} 300.0/300.0 kB", err)
    assert "\nThe connection broke (it closed after 100000 of 300000 bytes). Trying again …\n" in err
    assert err.endswith("\n")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    download(server.url, path.with_name("in a terminal"))
    assert "100%" in capsys.readouterr().err
    download(server.url, path.with_name("silent"), progress=False)
    assert capsys.readouterr() == ("", "")


def test_progress_bar_in_a_notebook(server, path, capsys, monkeypatch, no_overrides):
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    server.break_after = [100_000]
    download(server.url, path)
    out, err = capsys.readouterr()
    assert err == ""
    assert server.url in out and "100%" in out and "Trying again" in out


def test_release_keeps_its_name(server, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_ENCNET_CACHE", str(tmp_path))
    release = {"url": server.url, "format": "mmsegmentation", "sha256": SHA256[:8]}
    path = module.download_release(release)
    assert path == tmp_path / "downloads" / f"weights-{SHA256[:8]}.pth"
    assert path.read_bytes() == CONTENT
    server.content = zipped()
    release = {"url": server.url + ".zip", "format": "x", "sha1": SHA1, "member": "weights.pth"}
    assert module.download_release(release).suffix == ".zip"


# === Bounds ===


@pytest.mark.parametrize("sends_length", [True, False])
def test_file_that_is_too_large(server, path, sends_length):
    server.sends_length = sends_length
    with pytest.raises(ValueError, match="must have at most 299999 bytes.*300000.*not the published"):
        download(server.url, path, largest=299_999)
    assert files(path) == set()
    assert download(server.url, path, largest=300_000) == path


def test_endless_file(server, path):
    server.content, server.sends_length = bytes(10_000_000), False
    with pytest.raises(ValueError, match="must have at most 1000000 bytes"):
        download(server.url, path, largest=1_000_000)
    assert files(path) == set()


def test_largest_size_of_a_release(server, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_ENCNET_CACHE", str(tmp_path))
    release = {"url": server.url, "format": "mmsegmentation"}
    with pytest.raises(ValueError, match="must have at most 270000 bytes"):
        module.download_release(release, size_mb=0.09)
    assert module.download_release(release, size_mb=0.1).read_bytes() == CONTENT


class Clock:
    """Time that passes by a second each time somebody asks for it."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr(module.time, "monotonic", self)

    def __call__(self):
        self.now += 1
        return self.now


def test_server_that_sends_drop_by_drop(server, path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 1000)  # for each look at the clock
    Clock(monkeypatch)
    message = (
        "was stopped: only .* bytes per second arrived, of at least 10000. The .* bytes .*are kept"
    )
    with pytest.raises(TimeoutError, match=message) as caught:
        download(server.url, path)
    assert server.url in str(caught.value) and "put it at" in str(caught.value)
    # The next call resumes.
    monkeypatch.undo()
    download(server.url, path)
    assert path.read_bytes() == CONTENT and server.asked[1].startswith("bytes=")


def test_server_that_sends_a_drop_and_breaks_off(server, path, monkeypatch):
    Clock(monkeypatch)
    monkeypatch.setattr(module, "PAUSE", 0.0)
    server.break_after = [10] * 1000
    with pytest.raises(TimeoutError, match="was stopped: only .* bytes per second"):
        download(server.url, path)
    assert len(server.asked) < 100


def test_pause_of_the_network_is_not_the_server_s_speed(server, path, monkeypatch):
    clock = Clock(monkeypatch)
    monkeypatch.setattr(module.time, "sleep", lambda _: setattr(clock, "now", clock.now + 100))
    server.break_after = [100_000, 0, 0]
    download(server.url, path)
    assert path.read_bytes() == CONTENT


def test_headers_that_come_drop_by_drop(server, path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    server.statuses = ["slow headers"]
    download(server.url, path)  # in the second try
    assert path.read_bytes() == CONTENT and len(server.asked) == 2
    server.statuses = ["slow headers"] * 5
    begin = time.monotonic()
    with pytest.raises(TimeoutError, match="failed 5 times in a row: it did not answer for 0.2 s"):
        download(server.url, path.with_name("other"))
    assert time.monotonic() - begin < 5 and files(path) == {"weights.pth"}


def test_download_that_takes_too_long(server, path, monkeypatch):
    monkeypatch.setattr(module, "LONGEST", 3.0)
    monkeypatch.setattr(module, "CHUNK", 20_000)
    Clock(monkeypatch)
    with pytest.raises(TimeoutError, match="was stopped: it was not complete after .* hours"):
        download(server.url, path)


def test_disk_that_is_too_small(server, path, monkeypatch):
    usage = types.SimpleNamespace(free=299_999)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match="disk is full.*KERAS_ENCNET_CACHE"):
        download(server.url, path)
    assert not path.exists()
    usage.free = 300_000
    download(server.url, path)


def test_redirect_from_https_to_http():
    request = urllib.request.Request("https://host/weights.pth")
    with pytest.raises(urllib.error.HTTPError, match="http://host"):
        module._Redirects().redirect_request(request, None, 302, "", {}, "http://host/weights.pth")
    new = module._Redirects().redirect_request(request, None, 302, "", {}, "https://other/weights.pth")
    assert new.full_url == "https://other/weights.pth"


def test_two_downloads_of_one_file_at_once(server, path):
    server.break_after = [100_000]
    results, threads = [], []
    for _ in range(4):
        threads.append(threading.Thread(target=lambda: results.append(download(server.url, path))))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert results == [path] * 4 and path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=100000-"]
    assert files(path) == {"weights.pth"}

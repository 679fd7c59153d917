"""Files from the web: resumed where they broke off, checked, and whole or not there."""

import errno
import hashlib
import http.client
import json
import os
import pathlib
import re
import socket
import ssl
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib

from keras_encnet.presets.cache import cache_directory, explained

TRIES = 5  # in a row without a new byte
PAUSE = 1.0  # seconds before the second try; it doubles each time
TIMEOUT = 30.0  # seconds without an answer
CHUNK = 1 << 18
TEMPORARY = (408, 429, 500, 502, 503, 504)
LOST = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
LOST_NUMBERS = (errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTUNREACH)


def download_release(release, *, progress=None):
    """Downloads the `release` of a `Preset` or `Backbone` to the cache, under its own name.

    Several processes must not do so at once: `cached` sees to that where this is part of its `make`.

    Returns:
        The path of the file. It can be deleted when it has been converted.
    """
    checks = {key: release[key] for key in ("sha256", "sha1", "member") if key in release}
    return download(release["url"], release_path(release), progress=progress, **checks)


def release_path(release):
    """Where in the cache a release is downloaded to."""
    name = urllib.parse.urlsplit(release["url"]).path.rsplit("/", 1)[-1]
    return cache_directory() / "downloads" / name


def download(url, path, *, sha256=None, sha1=None, member=None, progress=None):
    """Downloads a file, unless it is there.

    What has arrived lies in `path.part` until it is whole and checked; the next call goes on from
    there, in another process too, if the server says that it is the same file still.

    Args:
        url: `http` or `https` address.
        path: where to; its directory is made.
        sha256: the file's SHA-256, or its first eight hexadecimal digits or more.
        sha1: the same for SHA-1.
        member: the checksum is not the file's, a zip, but that of this member of it.
        progress: whether to show a progress bar; default: in a terminal or a notebook.

    Returns:
        `path` as a `pathlib.Path`.

    Raises:
        ValueError: if the address is not `http` or `https`, or the checksum is not the expected one;
            the file has been deleted then.
        ConnectionError: without network, when the server refuses, when the connection breaks again
            and again, or with `HF_HUB_OFFLINE=1`.
        TimeoutError: if the server does not answer.
        OSError: if the file cannot be written or the disk is full.
    """
    path = pathlib.Path(path)
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"The address is {url!r}, expected one that begins with http:// or https://.")
    checks = {"sha256": _checked_hex(sha256, 64), "sha1": _checked_hex(sha1, 40)}
    if not path.is_file():
        if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
            raise ConnectionError(
                f"{url} is needed, but HF_HUB_OFFLINE is set. Unset it, or {_by_hand(path)}"
            )
        part = path.with_name(path.name + ".part")
        with explained(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
            _fetch(url, path, part, _Progress(url, progress))
            _state_path(part).unlink(missing_ok=True)
            _verify(part, url, checks, member)
            part.replace(path)
    else:
        _verify(path, url, checks, member)
    return path


# === Transfer ===


def _fetch(url, path, part, progress):
    """Receives the file, in as many tries as it takes."""
    failures, longest, reached = 0, -1, False
    while True:
        try:
            _receive(url, part, progress)
            return
        except urllib.error.HTTPError as error:
            error.close()
            problem = f"it answered {error.code} {error.reason}"
            failure = ConnectionError
            if error.code == 416:  # The part is longer than the file by now.
                _discard(part)
            elif error.code not in TEMPORARY:
                raise ConnectionError(_refusal(error, url, path)) from None
            reached = True
        except (http.client.HTTPException, OSError) as error:
            if not isinstance(error, LOST) and error.errno not in LOST_NUMBERS:
                raise
            # Without network it is no use to try again.
            unreachable = isinstance(error, urllib.error.URLError)
            reason = error.reason if unreachable else error
            failure = TimeoutError if isinstance(reason, TimeoutError) else ConnectionError
            problem = f"it did not answer for {TIMEOUT:g} s" if failure is TimeoutError else str(reason)
            if unreachable and not reached:
                raise failure(_unreachable(problem, reason, url, path)) from error
            reached = True
        size = _size(part)
        failures = 1 if size > longest else failures + 1
        longest = max(size, longest)
        if failures == TRIES:
            kept = f" {size} bytes have arrived and are kept." if _read_state(url, part) else ""
            raise failure(
                f"Downloading {url} failed {TRIES} times in a row: {problem}.{kept} Do the same again "
                f"later, or {_by_hand(path)}"
            )
        progress.say(f"The connection broke ({problem}); trying again …")
        time.sleep(PAUSE * 2 ** (failures - 1))


def _receive(url, part, progress):
    """One request: appends to `part` what it lacks, or all where it cannot be gone on with."""
    state = _read_state(url, part)
    start = _size(part) if state else 0
    if state and start == state["length"]:
        return
    headers = {"User-Agent": "keras-encnet", "Accept-Encoding": "identity"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": state["version"]}
    request = urllib.request.Request(url, headers=headers)
    with _opener().open(request, timeout=TIMEOUT) as response:
        now = _state(url, response, start)
        if response.status != 206:
            start = 0
            _discard(part)
            if now["version"] and now["length"]:
                _state_path(part).write_text(json.dumps(now), "utf-8")
        elif now != state:
            _discard(part)
            raise ConnectionError("the file changed on the server in the middle")
        done, length = start, now["length"]
        with open(part, "ab") as file:
            while length is None or done < length:
                data = response.read1(CHUNK if length is None else min(CHUNK, length - done))
                if not data:
                    break
                file.write(data)
                done += len(data)
                progress.update(done, length, start)
    if length is not None and done < length:
        raise ConnectionError(f"it closed after {done} of {length} bytes")
    progress.finish()


def _opener():
    """urllib's, without the handlers of other schemes, to which a redirection could lead."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _state(url, response, start):
    """Which file it is that the server sends: address, version and length, `None` where unknown."""
    if response.status == 206:
        sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        length = int(sent[2]) if sent and int(sent[1]) == start else None
    else:
        length = response.headers.get("Content-Length")
        length = int(length) if length and length.isdigit() else None
    tag = response.headers.get("ETag", "")
    # A weak tag does not promise the same bytes.
    strong = tag if tag.startswith('"') else None
    return {"url": url, "version": strong or response.headers.get("Last-Modified"), "length": length}


def _read_state(url, part):
    """What `_state` said of the file that `part` begins, or `None` if there is no going on."""
    try:
        state = json.loads(_state_path(part).read_text("utf-8"))
        same = state["url"] == url and 0 < part.stat().st_size <= state["length"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return state if same else None


def _state_path(part):
    return part.with_name(part.name + ".json")


def _size(part):
    return part.stat().st_size if part.is_file() else 0


def _discard(part):
    _state_path(part).unlink(missing_ok=True)
    part.unlink(missing_ok=True)


# === Checksums ===


def _checked_hex(digits, length):
    if digits is not None and not re.fullmatch(rf"[0-9a-fA-F]{{8,{length}}}", digits):
        raise ValueError(f"A checksum is {digits!r}, expected 8 to {length} hexadecimal digits.")
    return digits and digits.lower()


def _verify(path, url, checks, member):
    for algorithm, expected in checks.items():
        if expected is None:
            continue
        try:
            found = _digest(path, algorithm, member)[: len(expected)]
        except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, RuntimeError) as error:
            found = f"none ({error})"
        if found != expected:
            path.unlink()
            name = algorithm.upper().replace("SHA", "SHA-")
            of = f"{member} in {url}" if member else url
            raise ValueError(
                f"{of} is damaged, or not the file that was published: its {name} is {found}, expected "
                f"{expected}. It has been deleted. Do the same again; if it stays so, do not use it."
            )


def _digest(path, algorithm, member):
    if member is None:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    with zipfile.ZipFile(path) as archive, archive.open(member) as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


# === Words ===


def _refusal(error, url, path):
    host = urllib.parse.urlsplit(url).netloc
    gone = " The file is not there any more." if error.code in (404, 410) else ""
    answer = f"{host} answered {error.code} {error.reason} for {url}."
    return f"{answer}{gone} If you can, {_by_hand(path)}"


def _unreachable(problem, reason, url, path):
    host = urllib.parse.urlsplit(url).netloc
    hint = "Is there a network? In a Kaggle notebook, turn on “Internet” in its settings."
    if isinstance(reason, ssl.SSLCertVerificationError):
        hint = "Does this machine know today's certificates?"
    elif not isinstance(reason, (socket.gaierror, TimeoutError)):
        hint = "Is the network, or a proxy, in the way?"
    return f"Cannot reach {host} for {url}: {problem}. {hint} Or {_by_hand(path)}"


def _by_hand(path):
    return f"download it by other means and put it at {path}."


class _Progress:
    """A line that says how far it is; nothing where nobody looks."""

    def __init__(self, url, show):
        notebook = "ipykernel" in sys.modules
        # In a notebook, standard error is painted red.
        self.stream = sys.stdout if notebook else sys.stderr
        seen = self.stream is not None and (notebook or self.stream.isatty())
        self.show = seen if show is None else show
        self.interval = 0.5 if notebook else 0.1
        self.url, self.began, self.drawn, self.line = url, None, 0.0, ""

    def update(self, done, length, start):
        if not self.show:
            return
        now = time.monotonic()
        if self.began is None:
            print(f"Downloading {self.url}", file=self.stream)
        if self.began is None or done < self.first:
            self.began, self.first = now, start
        if now - self.drawn < self.interval and done != length:
            return
        self.drawn = now
        rate = (done - self.first) / max(now - self.began, 1e-3)
        line = f"{done / 1e6:.1f} MB"
        if length:
            bar = "━" * (20 * done // length)
            left = round((length - done) / max(rate, 1))
            line = f"{done / length:4.0%} {bar:·<20} {done / 1e6:.1f}/{length / 1e6:.1f} MB"
            line += f"  {rate / 1e6:.1f} MB/s  {left // 60}:{left % 60:02} left"
        self._draw(line)

    def say(self, text):
        if self.show:
            self.finish()
            print(text, file=self.stream, flush=True)

    def finish(self):
        if self.show and self.line:
            print(file=self.stream, flush=True)
            self.line = ""

    def _draw(self, line):
        print("\r" + line.ljust(len(self.line)), end="", file=self.stream, flush=True)
        self.line = line

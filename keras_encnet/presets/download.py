"""Downloads that resume after a break, have bounds and are checked. Files are complete or not there."""

import contextlib
import errno
import hashlib
import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib

import rich.console
import rich.progress

from keras_encnet.files import locked_in_turn
from keras_encnet.presets.cache import cache_directory, explain_write_errors

TRIES = 5  # in a row without a new byte
PAUSE = 1.0  # seconds before the second try; doubles each time
TIMEOUT = 30.0  # seconds until the headers of an answer are complete, and without new bytes
CHUNK = 1 << 18  # bytes
LARGEST = 4 * 10**9  # bytes, where the file's size is not known
LEAST = 10_000  # bytes per second, on average over `WINDOW`
WINDOW = 60.0  # seconds
LONGEST = 12 * 3600.0  # seconds in all
TEMPORARY = (408, 429, 500, 502, 503, 504)
LOST = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
LOST_NUMBERS = (errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTUNREACH)


def download_release(
    release: dict, *, size_mb: float | None = None, progress: bool | None = None
) -> pathlib.Path:
    """Downloads the `release` of a `Preset` or `Backbone` into the cache, under its own name.

    Args:
        release: the record's `release`.
        size_mb: its `size_mb`.
        progress: whether to show a progress bar.

    Returns:
        The path of the file, which may be deleted after conversion.
    """
    checks = {key: release[key] for key in ("sha256", "sha1", "member") if key in release}
    path, largest = release_path(release), largest_size(size_mb)
    return download(release["url"], path, largest=largest, progress=progress, **checks)


def largest_size(size_mb: float | None) -> int:
    """The most bytes that are accepted of a file whose record has `size_mb`."""
    # That is computed, not published.
    return LARGEST if size_mb is None else int(3e6 * size_mb)


def release_path(release: dict) -> pathlib.Path:
    """The path in the cache that a release is downloaded to."""
    name = urllib.parse.urlsplit(release["url"]).path.rsplit("/", 1)[-1]
    return cache_directory() / "downloads" / name


def download(
    url: str,
    path: str | os.PathLike,
    *,
    sha256: str | None = None,
    sha1: str | None = None,
    member: str | None = None,
    largest: int = LARGEST,
    progress: bool | None = None,
) -> pathlib.Path:
    """Downloads a file, unless it is there.

    Received bytes are kept in `path.part` until the file is complete and checked. The next call resumes
    from there, also in another process, if the server confirms that the file is still the same. Of
    several calls for one path, the others wait until the first has ended. A download that brings less
    than 10 kB/s over a minute, or takes twelve hours, is stopped. A server that has not sent its
    status and headers in 30 s counts as silent.

    Args:
        url: `http` or `https` address.
        path: where to write the file; its directory is created.
        sha256: the file's SHA-256, or at least its first eight hexadecimal digits.
        sha1: the same for SHA-1.
        member: name of a member of the file, a zip; the checksums are those of this member.
        largest: the most bytes that are accepted.
        progress: whether to show a progress bar; default: only in a terminal or a notebook.

    Returns:
        `path` as a `pathlib.Path`.

    Raises:
        ValueError: if the address is not `http` or `https`, the file is larger than `largest`, or a
            checksum does not match; the file is then deleted.
        ConnectionError: without a network, if the server refuses, if the connection keeps breaking, or
            with `HF_HUB_OFFLINE=1`.
        TimeoutError: if the server does not answer, or sends too slowly.
        OSError: if the file cannot be written or the disk is full.
    """
    path = pathlib.Path(path)
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"`url` must begin with http:// or https://. Received: {url!r}")
    checks = {"sha256": _checked_hex(sha256, 64), "sha1": _checked_hex(sha1, 40)}
    if not path.is_file():
        _fetch_alone(url, path, checks, member, largest, progress)
    else:
        _verify(path, url, checks, member)
    return path


def _fetch_alone(url, path, checks, member, largest, progress):
    """Receives and checks the file, unless another thread or process does so meanwhile."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise ConnectionError(
            f"{url} is needed, but HF_HUB_OFFLINE is set. Unset it, or {_by_hand(path)}"
        )
    # Not `files.replacing`: unlike a temporary file, this one must outlive a kill to be resumed.
    part = path.with_name(path.name + ".part")
    with explain_write_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked_in_turn(path.with_name(f".{path.name}.lock"), f"download {path.name}"):
            if path.is_file():
                return
            with _progress_bar(progress) as bar:
                _fetch(url, path, part, bar, largest)
            _state_path(part).unlink(missing_ok=True)
            _verify(part, url, checks, member)
            part.replace(path)


# === Transfer ===


class _TooSlow(Exception):
    """The message says how slow."""


class _TooLarge(Exception):
    """The argument is the size, as far as it is known."""


class _Pace:
    """Watches the speed of a download, whose connection may break now and then."""

    def __init__(self):
        self.begin = time.monotonic()
        self.start_window()

    def start_window(self):
        self.window, self.received = time.monotonic(), 0

    def add(self, size):
        self.received += size
        now = time.monotonic()
        if now - self.begin > LONGEST:
            raise _TooSlow(f"it was not complete after {LONGEST / 3600:g} hours")
        if now - self.window > WINDOW:
            rate = self.received / (now - self.window)
            if rate < LEAST:
                raise _TooSlow(f"only {rate:.0f} bytes per second arrived, of at least {LEAST}")
            self.start_window()


def _fetch(url, path, part, bar, largest):
    """Receives the file, in as many tries as it takes."""
    bar.console.out(f"Downloading {url}")
    failures, longest, reached, pace = 0, -1, False, _Pace()
    while True:
        try:
            _receive(url, part, bar, largest, pace)
            return
        except _TooSlow as error:
            raise TimeoutError(
                f"Downloading {url} was stopped: {error}.{_kept(url, part)} Try again later, or "
                f"{_by_hand(path)}"
            ) from None
        except _TooLarge as error:
            _discard(part)
            raise ValueError(
                f"{url} must have at most {largest} bytes. Received: {error} or more. It is not the "
                "published file; the part received was deleted."
            ) from None
        except urllib.error.HTTPError as error:
            error.close()
            problem = f"it answered {error.code} {error.reason}"
            failure = ConnectionError
            if error.code == 416:  # The part is longer than the file now is.
                _discard(part)
            elif error.code not in TEMPORARY:
                raise ConnectionError(_refusal(error, url, path)) from None
            reached = True
        except (http.client.HTTPException, OSError) as error:
            if not isinstance(error, LOST) and error.errno not in LOST_NUMBERS:
                raise
            # Without a network there is no point in trying again.
            unreachable = isinstance(error, urllib.error.URLError)
            reason = error.reason if unreachable else error
            failure = TimeoutError if isinstance(reason, TimeoutError) else ConnectionError
            problem = f"it did not answer for {TIMEOUT:g} s" if failure is TimeoutError else str(reason)
            if unreachable and not reached:
                raise failure(_unreachable(problem, reason, url, path)) from error
            reached = True
        size = _size(part)
        stalled = size <= longest
        failures = failures + 1 if stalled else 1
        longest = max(size, longest)
        if failures == TRIES:
            raise failure(
                f"Downloading {url} failed {TRIES} times in a row: {problem}.{_kept(url, part)} Try "
                f"again later, or {_by_hand(path)}"
            )
        bar.console.out(f"The connection broke ({problem}). Trying again …")
        time.sleep(PAUSE * 2 ** (failures - 1))
        if stalled:
            # Without a network nothing arrives, which is not the server's speed.
            pace.start_window()


def _receive(url, part, bar, largest, pace):
    """One request: appends the missing bytes to `part`, or starts over if it cannot be resumed."""
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
            raise ConnectionError("the file changed on the server during the download")
        done, length = start, now["length"]
        _check_size(length, largest)
        _check_disk(part.parent, length and length - done)
        (task,) = bar.task_ids
        bar.reset(task, total=length, completed=done)
        with open(part, "ab") as file:
            while length is None or done < length:
                data = response.read1(CHUNK if length is None else min(CHUNK, length - done))
                if not data:
                    break
                file.write(data)
                done += len(data)
                _check_size(done, largest)
                pace.add(len(data))
                bar.update(task, completed=done)
    if length is not None and done < length:
        raise ConnectionError(f"it closed after {done} of {length} bytes")


def _check_size(size, largest):
    if size is not None and size > largest:
        raise _TooLarge(size)


def _check_disk(directory, size):
    if size is not None and size > shutil.disk_usage(directory).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(directory))


def _progress_bar(show):
    """A progress bar with one task. By default it shows nothing outside terminals and notebooks."""
    # In notebooks standard error is red, and Rich's own display needs ipywidgets: write plain text.
    notebook = "ipykernel" in sys.modules
    console = rich.console.Console(
        stderr=not notebook, force_terminal=notebook or None, force_jupyter=False
    )
    console.quiet = not (console.is_terminal if show is None else show)
    bar = rich.progress.Progress(
        rich.progress.TaskProgressColumn(),
        rich.progress.BarColumn(),
        rich.progress.DownloadColumn(),
        rich.progress.TransferSpeedColumn(),
        rich.progress.TimeRemainingColumn(),
        console=console,
        refresh_per_second=4,
        disable=console.quiet,
    )
    bar.add_task("", total=None)
    return bar


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Does not leave `https`: anybody on the way could exchange the file."""

    def redirect_request(self, request, file, code, message, headers, new):
        if request.type == "https" and urllib.parse.urlsplit(new).scheme != "https":
            raise urllib.error.HTTPError(request.full_url, code, f"(to {new})", headers, file)
        return super().redirect_request(request, file, code, message, headers, new)


class _Response(http.client.HTTPResponse):
    """A response whose headers must be complete in `TIMEOUT` seconds. The timeout of the socket bounds
    only each piece of them."""

    def __init__(self, sock, *args, **kwargs):
        super().__init__(sock, *args, **kwargs)
        self._connection = sock

    def begin(self):
        expired = threading.Event()

        def expire():
            expired.set()
            # This ends a `recv` in another thread, unlike `close`.
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(TIMEOUT, expire)
        timer.daemon = True
        timer.start()
        try:
            super().begin()
        finally:
            timer.cancel()
            if expired.is_set():
                raise TimeoutError("its headers came too slowly")


class _Connection(http.client.HTTPConnection):
    response_class = _Response


class _SecureConnection(http.client.HTTPSConnection):
    response_class = _Response


class _HTTP(urllib.request.HTTPHandler):
    def http_open(self, request):
        return self.do_open(_Connection, request)


class _HTTPS(urllib.request.HTTPSHandler):
    def https_open(self, request):
        return self.do_open(_SecureConnection, request)


def _opener():
    """urllib's opener without the handlers of other schemes, to which a redirect could lead."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        _HTTP,
        _HTTPS,
        urllib.request.HTTPDefaultErrorHandler,
        _Redirects,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _state(url, response, start):
    """Identifies the file that the server sends: address, version and length, `None` if unknown."""
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
    """The `_state` of the file that `part` is the beginning of, or `None` if it cannot be resumed."""
    try:
        state = json.loads(_state_path(part).read_text("utf-8"))
        same = state["url"] == url and 0 < part.stat().st_size <= state["length"]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    return state if same else None


def _state_path(part):
    return part.with_name(part.name + ".json")


def _kept(url, part):
    return f" The {_size(part)} bytes received so far are kept." if _read_state(url, part) else ""


def _size(part):
    return part.stat().st_size if part.is_file() else 0


def _discard(part):
    _state_path(part).unlink(missing_ok=True)
    part.unlink(missing_ok=True)


# === Checksums ===


def _checked_hex(digits, length):
    if digits is not None and not re.fullmatch(rf"[0-9a-fA-F]{{8,{length}}}", digits):
        raise ValueError(f"A checksum must have 8 to {length} hexadecimal digits. Received: {digits!r}")
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
            file = f"{member} in {url}" if member else url
            raise ValueError(
                f"{file} must have the {name} {expected}. Received: {found}. It is damaged, or not the "
                "published file, and was deleted. Try again, and do not use it if that fails in the "
                "same way."
            )


def _digest(path, algorithm, member):
    if member is None:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    with zipfile.ZipFile(path) as archive, archive.open(member) as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


# === Messages ===


def _refusal(error, url, path):
    host = urllib.parse.urlsplit(url).netloc
    gone = " The file is no longer there." if error.code in (404, 410) else ""
    answer = f"{host} answered {error.code} {error.reason} for {url}."
    return f"{answer}{gone} If you can, {_by_hand(path)}"


def _unreachable(problem, reason, url, path):
    host = urllib.parse.urlsplit(url).netloc
    hint = "Check the network. In a Kaggle notebook, turn on “Internet” in the settings."
    if isinstance(reason, ssl.SSLCertVerificationError):
        hint = "Check that this machine's certificates are up to date."
    elif not isinstance(reason, (socket.gaierror, TimeoutError)):
        hint = "Check whether a firewall or proxy blocks it."
    return f"Cannot reach {host} for {url}: {problem}. {hint} Or {_by_hand(path)}"


def _by_hand(path):
    return f"download it by other means and put it at {path}."

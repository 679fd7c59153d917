"""Files, connections and floods that would stop a server that trusts its clients."""

import asyncio
import contextlib
import dataclasses
import io
import json
import logging
import signal
import struct
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import fake_model
import numpy as np
import pytest
from live import SERVING, photo, png, reply, running, written
from PIL import Image, ImageOps

attacks = pytest.importorskip("attacks")
pytestmark = pytest.mark.usefixtures("packages")
HEAD = b"POST /segment HTTP/1.1\r\nHost: x\r\n"
ANSWERS = {
    "hidden scans": (422, "at most 64 scans"),
    "scans": (422, "at most 64 scans"),
    "segments": (422, "at most 10,000 segments"),
    "fill bytes": (422, "broken"),
    "EXIF": (200, None),
    "chunks": (422, "at most 10,000 chunks"),
    "empty pixels": (422, "at most 10,000 chunks"),
    "profiles": (200, None),
    "texts": (200, None),
    "50,000 × 50,000": (413, "50000 × 50000"),
    "not complete": (422, "truncated"),
    "a form of many parts": (400, "at most 100 fields"),
    "a form of many lines": (400, "at most 100 fields"),
    "a form of many parameters": (400, "at most 100 fields"),
    "gzip": (415, "gzip data"),
    "JSON": (415, "[[[["),
}


@pytest.fixture(scope="module")
def files():
    return attacks.files()


@pytest.fixture(scope="module")
def attacked(model):
    with running(model) as server:
        yield server


def right(server, seed=0):
    """Whether the server answers, and correctly."""
    image = photo(seed=seed)
    status, answer = server.segment(png(image))
    presence = fake_model.answer(image)[1]
    return status == 200 and np.allclose(list(answer["presence"].values()), presence, atol=1e-5)


# Files


def test_each_attack_has_its_answer(files):
    assert set(files) == set(ANSWERS)


@pytest.mark.parametrize("name", ANSWERS)
def test_greedy_files_are_answered_at_once(attacked, files, name):
    body, header = files[name]
    status, text = ANSWERS[name]
    key, value = header.split(": ")
    start = time.perf_counter()
    found, _, answer = attacked.request("POST", "/segment", body, **{key.replace("-", "_"): value})
    assert time.perf_counter() - start < 4
    assert found == status, answer
    assert text is None or text in json.loads(answer)["error"]
    assert right(attacked)


@pytest.mark.parametrize("name", [name for name in ANSWERS if name.startswith("a form")])
def test_forms_do_not_block_the_event_loop(files, name):
    import server

    body, header = files[name]
    start = time.process_time()
    with pytest.raises(server.HTTPException):
        server.file_in_form(body, header.removeprefix("Content-Type: "))
    assert time.process_time() - start < 0.5


def test_hidden_scans_stop_neither_others_nor_the_exit(model, files):
    """Pillow calls this file MPO rather than JPEG, and would decode it for minutes."""
    body, _ = files["hidden scans"]
    with running(model, "--grace", 2) as server, ThreadPoolExecutor(2) as pool:
        both = [pool.submit(server.segment, body) for _ in range(2)]
        assert right(server)
        assert server.get("/health")[0] == 200
        assert [each.result()[0] for each in both] == [422, 422]
        start = time.perf_counter()
        assert server.stop() == 0
        assert time.perf_counter() - start < 6


def exif(orientation):
    found = Image.Exif()
    found[0x0112] = orientation
    return found


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_like_pillow_turns_them(format, orientation):
    import decoders
    import images

    body = written(photo(40, 56), format, exif=exif(orientation))
    picture = images.inspect(body, 10_000)
    assert (picture.width, picture.height, picture.orientation) == (56, 40, orientation)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(body))).convert("RGB")
    found = decoders.rgb(
        picture.format, picture.width, picture.height, picture.orientation, picture.data
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "options",
    [{"lossless": True}, {"exif": exif(6)}, {"icc_profile": bytes(10)}, {"quality": 50}],
)
def test_the_size_of_a_webp_is_found_in_each_of_its_forms(options):
    import images

    picture = images.inspect(written(photo(40, 57), "WEBP", **options), 10_000)
    assert (picture.width, picture.height) == (57, 40)


def test_what_follows_a_picture_is_left_out():
    """A second picture, or a film as telephones append it, has no scans of this one."""
    import images

    body = written(photo(), "JPEG")
    film = b"\xff\xda" * 10_000
    assert images.inspect(body + body + film, 10_000).data == images.inspect(body, 10_000).data
    chunks = attacks.chunk(b"tEXt") * 20_000
    assert images.inspect(png(photo()) + chunks, 10_000).data == png(photo())


def test_narrow_images_are_refused_by_their_header(attacked):
    status, answer = attacked.segment(png(np.zeros((1, 100_000, 3), "uint8")))
    assert status == 422
    assert "100000 × 1" in answer["error"]


# Decoders


@pytest.fixture
def decoders():
    import decoders

    with contextlib.closing(decoders.Decoders(1, 5, 1_000_000)) as one:
        yield one


def inspected(image, format="PNG"):
    import images

    return images.inspect(written(image, format), 1 << 40)


def test_a_decoder_that_takes_too_long_is_replaced(decoders):
    from decoders import OverLimit

    decoders.seconds = 0.5
    (process,) = decoders.processes
    process.send_signal(signal.SIGSTOP)  # it never answers
    start = time.perf_counter()
    with pytest.raises(OverLimit, match=r"takes more than 0\.5 s"):
        decoders.decode(inspected(photo()))
    assert 0.5 < time.perf_counter() - start < 3
    decoders.seconds = 20
    np.testing.assert_array_equal(decoders.decode(inspected(photo())), photo())
    assert process.poll() is not None
    assert process not in decoders.processes and len(decoders.processes) == 1


def test_a_decoder_that_ended_is_replaced_before_the_next_image(decoders):
    (process,) = decoders.processes
    process.kill()
    process.wait()
    np.testing.assert_array_equal(decoders.decode(inspected(photo())), photo())


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory needs Linux")
def test_a_decoder_takes_no_more_memory_than_it_may(decoders):
    from decoders import OverLimit

    large = dataclasses.replace(inspected(photo()), width=16_000, height=16_000)
    header = attacks.chunk(b"IHDR", struct.pack(">IIBBBBB", 16_000, 16_000, 8, 2, 0, 0, 0))
    large = dataclasses.replace(large, data=large.data[:8] + header + large.data[33:])
    with pytest.raises(OverLimit, match="too much memory"):
        decoders.decode(large)
    np.testing.assert_array_equal(decoders.decode(inspected(photo())), photo())


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_decoders_end_with_the_server(model):
    with running(model) as server:
        assert right(server)
        pid = server.process.pid
        pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        assert pids
        server.process.kill()
        server.process.wait()
    end = time.monotonic() + 10
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the system has no timer")
def test_a_busy_decoder_ends_although_its_server_was_killed(files):
    """`decode`, which would end it, is not called."""
    import decoders

    body, _ = files["scans"]
    with contextlib.closing(decoders.Decoders(1, 0.5, 16_000_000)) as one:
        (process,) = one.processes
        process.stdin.write(decoders.REQUEST.pack(b"JPEG", 4000, 4000, 1, len(body)) + body)
        process.stdin.flush()
        assert process.wait(20) == -signal.SIGALRM


def test_a_decoder_that_waits_does_not_end():
    import decoders

    with contextlib.closing(decoders.Decoders(1, 0.5, 1_000_000)) as one:
        one.seconds = 20
        np.testing.assert_array_equal(one.decode(inspected(photo())), photo())
        (process,) = one.processes
        time.sleep(1.5)
        assert process.poll() is None


def alive(pid):
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


# The model


class Stuck:
    """A model that does not return until `go` is set."""

    labels, palette, fixed = fake_model.LABELS, np.array(fake_model.PALETTE, "uint8"), (0, 0, 0)

    def __init__(self):
        self.go = threading.Event()

    def __call__(self, images, seconds=None):
        self.go.wait(20)
        names = ("labels", "presence", "confidence")
        return [dict(zip(names, (*fake_model.answer(image), None), strict=True)) for image in images]


def make_queue(model, **options):
    import inference

    limits = {"max_latency": 5, "timeout": 0.2, "max_images": 9, "max_pixels": 10**9}
    return inference.Queue(model, workers=1, max_batch=1, max_wait=0, **(limits | options))


async def call(app, method, path, body=b""):
    """`(status, JSON)` of an answer from an ASGI application."""
    sent, asked = [], 0

    async def receive():
        nonlocal asked
        asked += 1
        if asked > 1:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": []}
    await app(scope | {"root_path": "", "server": ("x", 80), "scheme": "http"}, receive, send)
    return sent[0]["status"], json.loads(b"".join(each.get("body", b"") for each in sent[1:]))


def test_health_fails_while_nothing_moves():
    import server

    model = Stuck()
    queue = make_queue(model)
    queue.cost.learn(1000, 0.1)
    options = SimpleNamespace(timeout=0.2, body_timeout=5, decode_timeout=20, max_pixels=10**6)
    options.max_body = 10**6
    app = server.make_app(model, queue, options)
    app.state.warm_up_seconds = 0.1

    async def check():
        async with server.lifespan(app):
            assert await call(app, "GET", "/health") == (
                200,
                {"live": True, "ready": True, "warm_up_seconds": 0.1},
            )
            options.timeout = 2  # the decoder starts
            assert (await call(app, "POST", "/segment", png(photo())))[0] == 503
            assert await call(app, "GET", "/health") == (
                503,
                {"live": False, "ready": False, "warm_up_seconds": 0.1},
            )
            model.go.set()
            while queue.running_since:
                await asyncio.sleep(0.01)
            assert (await call(app, "GET", "/health"))[0] == 200
            assert (await call(app, "POST", "/segment", png(photo())))[0] == 200
            queue.tasks[0].cancel()
            await asyncio.wait(queue.tasks)
            assert (await call(app, "GET", "/health"))[0] == 503

    asyncio.run(check())


def test_a_run_of_the_model_ends_at_its_limit(model):
    import inference

    slow = inference.Model(model, 1)
    image = np.full((1, 32, 32, 3), 255, "uint8")
    start = time.perf_counter()
    slow(image)
    usual = time.perf_counter() - start
    start = time.perf_counter()
    with pytest.raises(Exception, match="terminate"):
        slow(image, usual / 10)
    assert time.perf_counter() - start < usual / 2


def test_images_too_large_for_the_promise_are_refused_but_tried_once_in_a_while():
    import inference

    queue = make_queue(Stuck(), max_latency=5)
    for pixels in (100_000, 200_000):
        queue.cost.learn(pixels, pixels / 100_000)
    queue.check(400_000)  # 4 s
    queue.check(10_000_000)  # 100 s, but the estimate may be wrong
    with pytest.raises(inference.HTTPException, match=r"10,000,000 pixels, for about 100 s") as refused:
        queue.check(10_000_000)
    assert refused.value.status_code == 413
    queue.check(400_000)


# Connections


@contextlib.contextmanager
def opened(server, count, *pieces):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(server.raw(*pieces)) for _ in range(count)]


def is_closed(connection):
    connection.settimeout(0.01)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_held_connections_do_not_keep_out_others(model):
    with running(model, "--max-connections", 20) as server:
        for pieces in [(), (HEAD,), (HEAD + b"Content-Length: 5000\r\n\r\n", b"\xff")]:
            with opened(server, 60, *pieces) as held:
                assert right(server)
                assert server.get("/health")[0] == 200
                assert sum(map(is_closed, held)) >= 40
        assert server.log_lines() == []


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_an_answer_that_is_not_read_is_cut(model):
    """More than the system's buffers hold."""
    with running(model, "--body-timeout", 1) as server:
        ask = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 3000
        with server.raw(ask) as connection:
            end = time.monotonic() + 20
            while established(server, connection):
                assert time.monotonic() < end
                time.sleep(0.2)
        assert right(server)


def established(server, connection):
    """Whether the server's end of a connection is open, from its process's files."""
    port = connection.getsockname()[1]
    found = Path("/proc/net/tcp").read_text().splitlines()
    mine = [line.split() for line in found if f":{server.port:04X} " in line]
    return any(line[2].endswith(f":{port:04X}") and line[3] == "01" for line in mine)


@pytest.mark.skipif(sys.platform != "linux", reason="sets a limit of Linux")
def test_a_flood_of_connections_neither_uses_up_the_files_nor_fills_the_log(model):
    import resource

    def few_files():
        resource.setrlimit(resource.RLIMIT_NOFILE, (320, 320))

    with running(model, before=few_files) as server, opened(server, 900):
        assert right(server)
        assert server.metric("process_open_fds") < 320
        assert len(server.log_lines()) < 5


def test_invalid_requests_fill_no_log(model):
    texts = {
        b"nonsense\r\n\r\n": 400,
        b"GET /x HTTP/1.1\r\nHost: [\r\n\r\n": 404,
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n": 200,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nnonsense\r\n": 400,
    }
    with running(model) as server:
        for text, status in list(texts.items()) * 80:
            with server.raw(text) as connection:
                assert reply(connection)[0] == status
        lines = server.log_lines()
        assert len(lines) < 5 and all(len(line) < 600 for line in lines)
        assert not [line for line in lines if "ERROR" in line]
        assert right(server)


def test_long_paths_and_headers_are_echoed_in_short(attacked):
    _, _, answer = attacked.get("/" + "x" * 5000)
    assert len(answer) < 500
    status, answer = attacked.segment(png(photo()), accept="y" * 5000)
    assert status == 406 and len(answer["error"]) < 500


@pytest.mark.parametrize("length, count, status", [(1, 100, 415), (1, 101, 400), (1000, 3000, 415)])
def test_a_body_may_have_so_many_chunks(attacked, length, count, status):
    body = (b"%x\r\n" % length + b"x" * length + b"\r\n") * count + b"0\r\n\r\n"
    with attacked.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body) as connection:
        assert reply(connection)[0] == status
    assert right(attacked)


@pytest.mark.parametrize("length, status", [(60_000, 406), (70_000, 400)])
def test_a_header_may_have_so_many_bytes(attacked, length, status):
    with attacked.raw(HEAD + b"Accept: " + b"," * length + b"\r\n\r\n") as connection:
        assert reply(connection)[0] == status
    assert right(attacked)


# The log


def test_the_log_has_one_short_line_of_a_kind():
    import brief_log

    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(brief_log.Brief())
    handler.addFilter(brief_log.Seldom())
    log = logging.Logger("test")
    log.addHandler(handler)
    for i in range(5000):
        try:
            raise ValueError(f"number {i}\nof many " + "x" * 1000)
        except ValueError:
            log.exception("The model failed on image %d.", i)
    log.warning("another")
    first, second = stream.getvalue().splitlines()
    assert "ERROR The model failed on image 0. ValueError: number 0 of many xxx" in first
    assert len(first) < 600
    assert second.endswith("WARNING another")


def test_the_log_counts_what_it_left_out():
    import brief_log

    seldom = brief_log.Seldom()
    records = [logging.makeLogRecord({"msg": "%d", "args": (i,), "created": 100.0 * i}) for i in (1, 4)]
    records[1:1] = [logging.makeLogRecord({"msg": "", "created": 101.0}) for _ in range(5)]
    passed = [record.getMessage() for record in records if seldom.filter(record)]
    assert passed == ["1", "4 (and 5 times before)"]


# The end


def test_the_server_ends_within_its_grace_whatever_is_in_flight(model):
    with running(model, "--grace", 1) as server, opened(server, 3, HEAD + b"Content-Length: 9\r\n\r\n"):
        pool = ThreadPoolExecutor(4)
        for _ in range(4):
            pool.submit(server.segment, png(photo(work=255)))
        time.sleep(0.3)
        start = time.perf_counter()
        assert server.stop() in (0, 1)
        assert time.perf_counter() - start < 5
        assert all(len(line) < 600 for line in server.log_lines())
        pool.shutdown()


# Everything at once


@pytest.mark.slow
def test_under_attack_the_others_get_right_answers_in_time(model):
    """Other clients are answered within the promised time, or refused at once if the server is busy."""
    promise = 5
    records, stop = [], threading.Event()

    def client(server, seed):
        image = photo(seed=seed)
        body, presence = png(image), fake_model.answer(image)[1]
        while not stop.wait(0.1):
            start = time.perf_counter()
            status, answer = server.segment(body)
            good = status == 503 or np.allclose(list(answer["presence"].values()), presence, atol=1e-5)
            records.append((status, time.perf_counter() - start, good))

    with running(model, "--max-latency", promise) as server, ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(client, server, seed) for seed in range(2)]
        command = [sys.executable, str(SERVING / "attacks.py"), f"http://127.0.0.1:{server.port}"]
        attack = subprocess.run([*command, "--seconds", "20"], capture_output=True, text=True)
        health = server.get("/health")[0]
        stop.set()
        for each in clients:
            each.result()
        assert attack.returncode == 0, attack.stderr
        for name in [*ANSWERS, "tiny chunks"]:
            assert f"{name}: " in attack.stdout
        assert health == 200
        assert len(server.log_lines()) < 20 and all(len(line) < 600 for line in server.log_lines())
    statuses = [status for status, _, _ in records]
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) > 0.8 * len(statuses)
    assert all(good for _, _, good in records)
    assert max(seconds for _, seconds, _ in records) < promise

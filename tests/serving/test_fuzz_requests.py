"""Random requests: each is answered or refused in time, and the next good one is answered correctly."""

import random
import socket
import time

import fake_model
import numpy as np
import pytest
from live import photo, png, running, written

pytestmark = pytest.mark.usefixtures("packages")
ANSWERS = {*range(200, 300), *range(400, 500), 503, 504}
SECONDS = 5  # for an answer
EACH = 100  # inputs, after which the server's health is checked

IMAGES = [
    written(photo(40, 56), "JPEG", quality=60),
    written(photo(40, 56), "JPEG", progressive=True),
    written(photo(40, 56), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0"),
    png(photo(40, 56)),
    written(photo(40, 56), "PNG", "P"),
    png(np.zeros((64, 64, 3), "uint8")),
    written(photo(40, 56), "WEBP", lossless=True),
    written(photo(40, 56), "WEBP", quality=50),
]
OTHERS = [
    b"",
    b'{"instances": [{"image_bytes": {"b64": "' + b"A" * 500 + b'"}}]}',
    b'{"a": [' * 200 + b"NaN" + b"]}" * 200,
    b"\x1f\x8b\x08" + bytes(100),
    b"II*\0\x08\0\0\0" + bytes(100),
]
PIECES = [
    b"\xff",
    b"\xff\xd8",
    b"\xff\xd9",
    b"\xff\xda\0\x08",
    b"\xff\xe1\0\2",
    b"\xff\xe2\0\x20MPF\0",
    b"\0\0\0\0IDAT",
    b"\0\0\0\0IEND\xaeB`\x82",
    b"\xff\xff\xff\xffIDAT",
    b"VP8X\n\0\0\0",
    b"\r\n--x\r\n",
    b"\r\n\r\n",
    b"content-disposition: x\n",
    bytes(40),
]
HEADERS = [
    b"Accept: image/png",
    b"Accept: text/html",
    b"Accept: image/png;q=nan, */*;q=1e999, ;;q",
    b"Accept: \xff\xfe",
    b"Content-Type: multipart/form-data",
    b"Content-Type: multipart/form-data; boundary=x",
    b'Content-Type: multipart/form-data; boundary*0=; boundary="',
    b'Content-Type: multipart/form-data; boundary=x; a="' + b";" * 40_000,
    b"Content-Encoding: gzip",
    b"Expect: 100-continue",
    b"X-Forwarded-For: 1.2.3.4, " + b"9" * 300,
    b"Host: [",
    b"Range: bytes=0-9999999999999999999",
    b"Upgrade: websocket",
    b"Upgrade: h2c",
    b"Content-Length: 99999999999999999999",
    b"Content-Length: -1",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity, chunked",
    b"X: " + b"y" * 20_000,
]
METHODS = [b"POST"] * 50 + [b"GET", b"HEAD", b"PUT", b"OPTIONS", b"post", b"X" * 200]
PATHS = [b"/segment"] * 80 + [
    b"/segment?label_map=1",
    b"/segment?label_map=%00&label_map",
    b"/segment/../segment",
    b"/health",
    b"/classes",
    b"/metrics",
    b"/",
    b"*",
    b"//x\\y",
    b"/%ff%fe\xc3",
    b"/" + b"z" * 3000,
    b"http://other/segment",
]


def changed(data, choose):
    """Data with a few random changes."""
    data = bytearray(data)
    for _ in range(choose.choice([0, 1, 1, 2, 5, 20])):
        at = choose.randrange(len(data) + 1)
        kind = choose.randrange(6)
        if kind == 0:
            data[at : at + 1] = bytes([choose.randrange(256)])
        elif kind == 1:
            data[at:at] = choose.choice(PIECES) * choose.choice([1, 1, 1, 1, 70, 1000, 8000])
        elif kind == 2:
            del data[at : at + choose.choice([1, 4, 100])]
        elif kind == 3:
            data[at : at + 4] = choose.choice([b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff", b"\0\1\0\0"])
        elif kind == 4:
            data[at:at] = data[choose.randrange(len(data) + 1) :][: choose.choice([10, 500])]
        elif choose.random() < 0.2:
            del data[at:]
    return bytes(data)


def request(choose):
    """The bytes of a random request, and whether it is complete, so that it must be answered."""
    body = changed(choose.choice(IMAGES * 3 + OTHERS), choose)
    headers = choose.sample(HEADERS, choose.choice([0, 0, 0, 0, 1, 3]))
    if choose.random() < 0.2:
        file = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        body = file + body + b"\r\n--x--\r\n"
        if choose.random() < 0.5:
            body = changed(body, choose)
        headers.append(b"Content-Type: multipart/form-data; boundary=x")
    length = len(body)
    complete = not any(header.startswith((b"Content-L", b"Transfer")) for header in headers)
    if choose.random() < 0.1:
        length = choose.choice([0, 1, length // 2, length + 1, 10**9])
        complete = complete and length <= len(body)
    line = choose.choice(METHODS) + b" " + choose.choice(PATHS) + b" HTTP/1.1"
    own = [b"Host: x", b"Connection: close", b"Content-Length: %d" % length]
    choose.shuffle(headers)
    head = b"\r\n".join([line, *own, *headers]) + b"\r\n\r\n"
    if choose.random() < 0.05:
        head, complete = changed(head, choose), False
    return head + body, complete


def statuses(server, data, complete):
    """The statuses of the answers to the bytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as connection:
        answer = b""
        try:
            connection.sendall(data)
            if not complete:  # otherwise the server would wait for more
                connection.shutdown(socket.SHUT_WR)
            while piece := connection.recv(1 << 16):
                answer += piece
        except TimeoutError:
            raise
        except OSError:
            pass  # refused before all was sent
    found = [part[:3] for part in answer.split(b"HTTP/1.1 ")[1:]]
    return [int(status) for status in found if status != b"100"]


def test_random_requests(tmp_path, fuzz):
    count, seed = fuzz
    path = tmp_path / "quick.onnx"
    fake_model.write(path, work=False)
    image = photo()
    labels, presence = fake_model.answer(image)
    counts = {}
    with running(path, "--max-pixels", 100_000, "--max-body", 200_000) as server:
        for i in range(count):
            data, complete = request(random.Random(f"{seed} {i}"))
            place = f"seed {seed}, index {i}"
            start = time.perf_counter()
            try:
                found = statuses(server, data, complete)
            except TimeoutError:
                pytest.fail(f"{place}: no answer within {SECONDS} s")
            assert time.perf_counter() - start < SECONDS, f"{place}: an answer too late"
            assert set(found) <= ANSWERS, f"{place}: {found}"
            assert found or not complete, f"{place}: no answer"
            for status in found or ["no answer"]:
                counts[status] = counts.get(status, 0) + 1
            if i % EACH == EACH - 1 or i == count - 1:
                assert server.get("/health")[0] == 200, f"{place}: the server is not healthy"
                status, answer = server.segment(png(image))
                assert status == 200, f"{place}: a good image got {status}"
                np.testing.assert_allclose(list(answer["presence"].values()), presence, atol=1e-5)
        lines = server.log_lines()
        assert all(len(line) < 600 for line in lines), lines
        assert len(lines) < 20 + count // 100, lines
        assert not [line for line in lines if "ERROR" in line], lines
        assert server.metric("encnet_requests_in_flight") == 0
    print(f"{count} requests of seed {seed}: {counts}")
    assert counts.get(200, 0) > count / 20  # the changes leave some images as they were

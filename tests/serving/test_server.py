"""The server's promises to a single client, over a real socket."""

import base64
import io
import json
import shutil
import struct
import subprocess
import sys
import time
import zlib

import fake_model
import numpy as np
import pytest
from live import SERVING, photo, png, reply, running, written
from PIL import Image

pytestmark = pytest.mark.usefixtures("packages")


def read_png(data):
    picture = Image.open(io.BytesIO(data))
    return picture, np.asarray(picture)


# Answers


def test_png_has_the_models_labels_and_the_classes_colours(server):
    image = photo(37, 131)
    status, answer = server.segment(png(image), accept="image/png")
    assert status == 200
    picture, labels = read_png(answer)
    assert picture.mode == "P"
    np.testing.assert_array_equal(labels, fake_model.answer(image)[0])
    np.testing.assert_array_equal(
        np.asarray(picture.convert("RGB")), np.array(fake_model.PALETTE, "uint8")[labels]
    )


def test_json_has_areas_largest_first_and_presence(server):
    image = np.zeros((40, 50, 3), "uint8")  # ties are red, the first class
    image[:30, :, 2] = 200
    image[30:34, :, 1] = 100
    status, answer = server.segment(png(image))
    assert status == 200
    assert (answer["height"], answer["width"]) == (40, 50)
    assert 0 < answer["seconds"] < 20
    assert "label_map" not in answer
    assert [entry["label"] for entry in answer["labels"]] == ["blue", "red", "green"]
    assert [entry["area"] for entry in answer["labels"]] == pytest.approx([0.75, 0.15, 0.1])
    assert [entry["color"] for entry in answer["labels"]] == [fake_model.PALETTE[i] for i in (2, 0, 1)]
    expected = {"red": 0, "green": 0.1 * 100 / 255, "blue": 0.75 * 200 / 255}
    assert answer["presence"] == pytest.approx(expected, abs=1e-5)
    assert answer["labels"][0]["presence"] == answer["presence"]["blue"]


def test_json_has_the_mean_confidence_of_each_class_if_the_model_gives_it(server, tmp_path):
    image = np.zeros((40, 50, 3), "uint8")
    image[:30, :, 2] = 204
    image[:10, :, 2] = 51
    image[30:, :, 1] = 102
    path = tmp_path / "confident.onnx"
    fake_model.write(path, confidence=True)
    with running(path) as confident:
        _, answer = confident.segment(png(image))
    found = {entry["label"]: entry["confidence"] for entry in answer["labels"]}
    # 51, 102 and 204 of 255; two thirds of the blue pixels have 0.8 and the others 0.2.
    assert found == pytest.approx({"blue": 0.6, "green": 0.4}, abs=1e-5)
    _, answer = server.segment(png(image))
    assert [set(entry) for entry in answer["labels"]] == [
        {"label", "index", "area", "presence", "color"}
    ] * 2


def test_json_can_include_the_label_map(server):
    image = photo()
    _, answer = server.segment(png(image), query="?label_map=1")
    _, labels = read_png(base64.b64decode(answer["label_map"]))
    np.testing.assert_array_equal(labels, fake_model.answer(image)[0])


@pytest.mark.parametrize(
    "accept, expected",
    [
        ("*/*", "application/json"),
        ("image/*", "image/png"),
        ("image/png;q=0.2, application/json;q=0.5", "application/json"),
        ("application/json;q=0.2, image/png", "image/png"),
    ],
)
def test_the_answer_follows_the_accept_header(server, accept, expected):
    status, headers, _ = server.request("POST", "/segment", png(photo()), Accept=accept)
    assert (status, headers["Content-Type"]) == (200, expected)


def test_other_answer_formats_are_406(server):
    status, answer = server.segment(png(photo()), accept="text/html")
    assert status == 406
    assert "text/html" in answer["error"] and "image/png" in answer["error"]


# Images


@pytest.mark.parametrize(
    "format, mode, options",
    [
        ("JPEG", None, {"quality": 80}),
        ("JPEG", None, {"quality": 80, "progressive": True}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("PNG", "P", {}),
        ("PNG", "L", {}),
        ("PNG", "1", {}),
        ("PNG", "RGBA", {}),
        ("PNG", "LA", {}),
        ("WEBP", None, {"quality": 80}),
        ("WEBP", None, {"lossless": True}),
    ],
)
def test_pixels_are_read_like_pillow(server, format, mode, options):
    body = written(photo(40, 56), format, mode, **options)
    pixels = np.asarray(Image.open(io.BytesIO(body)).convert("RGB"))
    status, answer = server.segment(body, accept="image/png")
    assert status == 200
    np.testing.assert_array_equal(read_png(answer)[1], fake_model.answer(pixels)[0])


def test_16_bit_png_is_reduced_to_its_high_bytes(server):
    out = io.BytesIO()
    Image.fromarray(np.full((40, 40), 51 * 256 + 99, "uint16")).save(out, "PNG")
    _, answer = server.segment(out.getvalue())
    assert answer["presence"] == pytest.approx({"red": 0.2, "green": 0.2, "blue": 0.2}, abs=1e-5)


@pytest.mark.parametrize("orientation, turned", [(3, 2), (6, 3), (8, 1)])
def test_exif_orientation_is_applied(server, orientation, turned):
    image = photo(40, 60)
    exif = Image.Exif()
    exif[0x0112] = orientation
    status, answer = server.segment(png(image, exif=exif), accept="image/png")
    assert status == 200
    np.testing.assert_array_equal(read_png(answer)[1], fake_model.answer(np.rot90(image, turned))[0])


def test_invalid_exif_is_ignored(server):
    body = written(photo(), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff nothing")
    assert server.segment(body)[0] == 200


# Invalid images


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width, height):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100))


WHOLE = png(photo())
SCANS = written(photo(32, 32) // 8, "JPEG", progressive=True)
REFUSED = {
    "nothing": (b"", 400, "empty"),
    "text": (b"Hello, what is in this picture?", 415, "text that begins 'Hello"),
    "GIF": (written(photo(), "GIF"), 415, "a GIF image"),
    "TIFF": (written(photo(), "TIFF"), 415, "a TIFF image"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(100), 415, "HEIC"),
    "noise": (bytes(range(200, 256)) * 9, 415, "unknown format"),
    "truncated PNG": (WHOLE[: len(WHOLE) // 2], 422, "truncated"),
    "truncated JPEG": (written(photo(), "JPEG")[:-200], 422, "truncated"),
    "a PNG signature": (WHOLE[:8], 422, "truncated"),
    "a JPEG signature": (b"\xff\xd8\xff\xe0", 422, "truncated"),
    "a sound in RIFF": (b"RIFF\x24\0\0\0WAVEfmt " + bytes(40), 422, "broken"),
    "a broken checksum": (WHOLE[:40] + b"\0\0\0\0" + WHOLE[44:], 422, "broken"),
    "50,000 × 50,000": (png_header(50_000, 50_000), 413, "50000 × 50000"),
    "a little too large": (png_header(1001, 1000), 413, "1,000,000"),
    "too narrow": (png(photo(100, 31)), 422, "31 × 100"),
    "hundreds of scans": (SCANS[:-2] + SCANS[SCANS.rindex(b"\xff\xda") : -2] * 500, 422, "scans"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_images_are_refused_and_the_server_keeps_running(server, name):
    body, status, words = REFUSED[name]
    answer = server.segment(body)
    assert answer[0] == status, answer
    assert words in answer[1]["error"]
    assert " must " in answer[1]["error"] and "Received: " in answer[1]["error"]
    assert server.segment(WHOLE)[0] == 200


def test_a_decompression_bomb_takes_no_memory(server):
    before = server.memory()
    start = time.perf_counter()
    for _ in range(20):
        assert server.segment(png_header(50_000, 50_000))[0] == 413
    assert time.perf_counter() - start < 5
    assert server.memory() < before + 30e6  # the pixels would be 7.5 GB


# Forms


def form(*fields, boundary="x y"):
    """A form of `(name, file name or None, bytes)`, and its content type."""
    parts = []
    for name, filename, data in fields:
        file = f'; filename="{filename}"' if filename else ""
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n'
        parts += [head.encode(), b"Content-Type: application/octet-stream\r\n\r\n", data, b"\r\n"]
    body = b"".join([*parts, f"--{boundary}--\r\n".encode()])
    return body, f'multipart/form-data; boundary="{boundary}"'


def send_form(server, body, content_type):
    headers = {"Content_Type": content_type, "Accept": "application/json"}
    status, _, answer = server.request("POST", "/segment", body, **headers)
    return status, json.loads(answer)


@pytest.mark.parametrize("before", [[], [("title", None, b"a street"), ("empty", "none", b"")]])
def test_a_file_in_a_form_is_segmented(server, before):
    image = photo()
    tricky = png(image) + b"\r\n--x\r\n\r\n\r\n"  # almost a boundary
    status, answer = send_form(server, *form(*before, ("file", "a photo.png", tricky)))
    assert status == 200
    presence = fake_model.answer(image)[1]
    np.testing.assert_allclose(list(answer["presence"].values()), presence, atol=1e-5)


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
def test_curl_sends_a_file_as_a_form(server, tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(png(photo()))
    address = f"http://127.0.0.1:{server.port}/segment"
    answer = subprocess.run(["curl", "-sSF", f"file=@{path}", address], capture_output=True, check=True)
    assert (json.loads(answer.stdout)["height"], json.loads(answer.stdout)["width"]) == (48, 64)


FORMS = {
    "no file": form(("title", None, b"a street")),
    "nothing": form(),
    "no end": (form(("file", "a.png", png(photo())))[0][:-100], 'multipart/form-data; boundary="x y"'),
    "no boundary": (form(("file", "a.png", png(photo())))[0], "multipart/form-data"),
    "too many fields": form(*[("title", None, b"")] * 200, ("file", "a.png", png(photo()))),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_without_a_file_is_refused_with_a_remedy(server, name):
    status, answer = send_form(server, *FORMS[name])
    assert status == 400
    assert "curl -F file=@photo.jpg" in answer["error"] and "Received: " in answer["error"]


def test_the_limits_hold_for_forms(server):
    assert send_form(server, *form(("file", "a.jpg", bytes(300_000))))[0] == 413
    assert send_form(server, *form(("file", "a.png", png_header(50_000, 50_000))))[0] == 413
    assert send_form(server, *form(("file", "a.txt", b"text")))[0] == 415


def test_unknown_paths_and_methods_are_answered_in_json(server):
    status, _, answer = server.get("/nowhere")
    assert status == 404 and "/nowhere" in json.loads(answer)["error"]
    status, headers, answer = server.get("/segment")
    assert (status, headers["Allow"]) == (405, "POST")
    assert "GET" in json.loads(answer)["error"]


# Limits on the body


HEAD = b"POST /segment HTTP/1.1\r\nHost: x\r\n"


def test_a_body_with_too_large_a_length_is_not_read(server):
    with server.raw(HEAD + b"Content-Length: 300001\r\n\r\n") as connection:
        status, _, answer = reply(connection)
    assert status == 413
    assert b"300,000 bytes" in answer


def test_a_body_without_a_length_is_refused_while_it_streams(server):
    """The answer comes although the body never ends."""
    block = b"8000\r\n" + b"\xff\xd8" * 0x4000 + b"\r\n"  # 32 kB
    with server.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[block] * 10) as connection:
        assert reply(connection)[0] == 413
    assert server.segment(WHOLE)[0] == 200


def test_a_body_that_arrives_too_slowly_is_408(server):
    with server.raw(HEAD + b"Content-Length: 5000\r\n\r\n", WHOLE[:100]) as connection:
        status, _, answer = reply(connection)
        assert status == 408
        assert b"100 bytes" in answer
        assert connection.recv(1) == b""  # the connection is closed


def test_a_request_whose_header_never_ends_is_closed(server):
    with server.raw(HEAD) as connection:
        start = time.perf_counter()
        with pytest.raises(OSError):
            while time.perf_counter() - start < 15:
                connection.sendall(b"X-More: 1\r\n")
                time.sleep(0.1)
    assert server.segment(WHOLE)[0] == 200


# Other paths


def test_health_classes_and_metrics(server):
    status, _, answer = server.get("/health")
    record = json.loads(answer)
    assert status == 200 and record["live"] and record["ready"]
    assert record["warm_up_seconds"] > 0
    assert json.loads(server.get("/classes")[2]) == [
        {"index": i, "label": label, "color": color}
        for i, (label, color) in enumerate(zip(fake_model.LABELS, fake_model.PALETTE, strict=True))
    ]
    names = ('encnet_requests_total{status="%d"}', "encnet_latency_seconds_count")
    before = [server.metric(names[0] % 200), server.metric(names[1])]
    server.segment(WHOLE)
    server.segment(b"text")
    assert server.metric(names[0] % 200) == before[0] + 1
    assert server.metric(names[1]) == before[1] + 1
    assert server.metric(names[0] % 415) >= 1
    assert server.metric("encnet_requests_in_flight") == 0
    assert server.metric("encnet_queue_length") == 0
    assert server.metric("encnet_model_seconds_count") == server.metric("encnet_batch_size_count") >= 1


def test_the_page_may_load_nothing_from_other_servers(server):
    status, headers, answer = server.get("/")
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert b"http://" not in answer and b"https://" not in answer


# Models


def test_a_model_without_metadata_or_presence(tmp_path):
    path = tmp_path / "bare.onnx"
    fake_model.write(path, metadata={}, presence=False)
    with running(path) as server:
        image = photo()
        status, answer = server.segment(png(image))
        assert status == 200
        assert answer["presence"] is None
        assert {entry["label"] for entry in answer["labels"]} == {"class 0", "class 1", "class 2"}
        assert len({tuple(entry["color"]) for entry in answer["labels"]}) == 3


def test_a_model_for_one_size_and_batch_names_its_size(tmp_path):
    path = tmp_path / "fixed.onnx"
    fake_model.write(path, size=(2, 48, 64))
    with running(path) as server:
        image = photo(48, 64)
        status, answer = server.segment(png(image), accept="image/png")
        assert status == 200
        np.testing.assert_array_equal(read_png(answer)[1], fake_model.answer(image)[0])
        status, answer = server.segment(png(photo(48, 65)))
        assert status == 422
        assert "65 × 48" in answer["error"] and "64 × 48" in answer["error"]


@pytest.mark.parametrize("option", [("--port", "70000"), ("--workers", "0"), ("--max-wait", "-1")])
def test_invalid_options_are_refused_at_startup(option, tmp_path):
    command = [sys.executable, str(SERVING / "server.py"), str(tmp_path / "model.onnx"), *option]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    name, value = option
    assert f"{name} must be " in done.stderr and f"Received: {value}" in done.stderr


@pytest.mark.parametrize("kind", ["text", "missing", "other"])
def test_an_invalid_model_file_is_named_at_startup(tmp_path, kind):
    path = tmp_path / "not a model.onnx"
    if kind == "text":
        path.write_text("text")
    if kind == "other":
        fake_model.write(path, labels="classes")
    command = [sys.executable, str(SERVING / "server.py"), str(path), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr

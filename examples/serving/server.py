"""A server for an exported EncNet: photographs in, label maps out.

    python server.py model.onnx --port 8000

Needs onnxruntime, starlette, uvicorn, prometheus-client, pillow and numpy, but not keras-encnet.
"""

import argparse
import asyncio
import base64
import contextlib
import logging
import os
import re
import signal
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import brief_log
import connections
import images
import inference
import numpy as np
import prometheus_client
import uvicorn
from decoders import Decoders, DecodingFailed, OverLimit
from prometheus_client import Counter, Gauge, Histogram
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

PAGE = Path(__file__).with_name("page.html").read_text("utf-8")
# The page may load nothing from other servers.
PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src 'self'"
)
BODIES = 16  # bodies of the largest size that are held at the same time
CLIENT_GONE = 499  # the usual status in logs when the client has hung up
MAX_FORM_PARTS = 100
MAX_PART_HEAD = 2000  # bytes of the header of a part
# RFC 2046 allows 70 characters. The parser of the standard library takes seconds for some headers.
BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^\s";,]{1,70}))', re.I)
FILE_HEAD = re.compile(rb"^content-disposition:[^\r\n]*\sfilename", re.I | re.M)

REQUESTS = Counter("encnet_requests", "Answers to POST /segment.", ["status"])
LATENCY = Histogram(
    "encnet_latency_seconds",
    "Seconds from a request's header to its answer, if that is a label map.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
IN_FLIGHT = Gauge("encnet_requests_in_flight", "Requests to /segment that are being answered.")
WAITING = Gauge("encnet_queue_length", "Images that wait for the model.")
EXPECTED_WAIT = Gauge("encnet_expected_wait_seconds", "Until all admitted images are answered.")


async def segment(request):
    """`POST /segment`: from an image file to PNG or JSON."""
    start = time.perf_counter()
    with IN_FLIGHT.track_inprogress():
        try:
            kind = preferred(request.headers.get("accept", "*/*"))
            request.app.state.queue.check()  # before the body, which takes time to read
            body = await read_body(request)
            response = await unless_gone(request, answer(request, kind, body, start))
            LATENCY.observe(time.perf_counter() - start)
        except HTTPException as refusal:
            response = JSONResponse({"error": refusal.detail}, refusal.status_code, refusal.headers)
        except images.Refused as refusal:
            response = JSONResponse({"error": str(refusal)}, refusal.status)
        except ClientDisconnect:
            response = Response(status_code=CLIENT_GONE)
        except asyncio.CancelledError:  # by uvicorn, at the end of --grace
            response = JSONResponse({"error": "The server is shutting down. Try again later."}, 503)
        except Exception:
            logging.exception("The model failed.")
            message = "The model failed on this image. See the server's log for details."
            response = JSONResponse({"error": message}, 500)
    REQUESTS.labels(response.status_code).inc()
    return response


async def answer(request, kind, body, start):
    state, options = request.app.state, request.app.state.options
    in_thread = asyncio.get_running_loop().run_in_executor
    try:
        async with asyncio.timeout(options.timeout):
            picture = await in_thread(state.codecs, images.inspect, body, options.max_pixels)
            with state.queue.admit(picture.width * picture.height) as since:
                try:
                    image = await in_thread(state.decoders.threads, state.decoders.decode, picture)
                except OverLimit as error:
                    raise images.greedy(error) from None
                except DecodingFailed as error:
                    raise images.broken(error) from None
                check_size(image, state.model.fixed)
                found = await state.queue.run(image, since)
                names, palette = state.model.labels, state.model.palette
                if kind == "image/png":
                    png = await in_thread(state.codecs, images.encode, found["labels"], palette)
                    return Response(png, media_type=kind)
                with_map = request.query_params.get("label_map", "0") not in ("0", "false")
                record = await in_thread(state.codecs, as_record, found, names, palette, with_map)
                return JSONResponse(record | {"seconds": round(time.perf_counter() - start, 4)})
    except TimeoutError:
        raise HTTPException(
            503,
            f"The image was not answered within {options.timeout:g} s. Send a smaller one, or "
            "try again later.",
            {"Retry-After": "1"},
        ) from None


def as_record(found, names, palette, with_map):
    """The JSON answer: classes with their areas, largest first, and what the model gives of presence
    and confidence."""
    labels, presence, confidence = found["labels"], found["presence"], found["confidence"]
    counts = np.bincount(labels.reshape(-1), minlength=len(names))
    presence = [None] * len(names) if presence is None else np.round(presence, 6).tolist()
    means = [{}] * len(names)
    if confidence is not None:
        sums = np.bincount(labels.reshape(-1), confidence.reshape(-1), len(names))
        means = [{"confidence": mean} for mean in np.round(sums / np.maximum(counts, 1), 6).tolist()]
    record = {
        "height": labels.shape[0],
        "width": labels.shape[1],
        "labels": [
            {
                "label": names[i],
                "index": int(i),
                "area": float(counts[i] / labels.size),
                "presence": presence[i],
                "color": palette[i].tolist(),
            }
            | means[i]
            for i in np.argsort(-counts, kind="stable")
            if counts[i]
        ],
        "presence": None if presence[0] is None else dict(zip(names, presence, strict=True)),
    }
    if with_map:
        record["label_map"] = base64.b64encode(images.encode(labels, palette)).decode()
    return record


def preferred(accept):
    """`image/png` or `application/json`, whichever an `Accept` header prefers."""
    qualities = {}
    for entry in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in entry.split(";"))
        quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
        with contextlib.suppress(ValueError):
            qualities[kind] = float(quality)

    def quality_of(kind):
        group = kind.split("/")[0] + "/*"
        return qualities.get(kind, qualities.get(group, qualities.get("*/*", 0)))

    best = max(("application/json", "image/png"), key=quality_of)
    if not quality_of(best):
        raise HTTPException(
            406, f"`Accept` must allow image/png or application/json. Received: {short(accept)!r}"
        )
    return best


def short(text, length=100):
    return text if len(text) <= length else text[:length] + "…"


async def read_body(request):
    """Reads the image file of the request, within the limits on size and time."""
    state, options = request.app.state, request.app.state.options
    kind, length = request.headers.get("content-type", ""), request.headers.get("content-length", "0")
    too_large = HTTPException(
        413,
        f"The body must have at most {options.max_body:,} bytes. Received: a larger one. "
        "Send a smaller image.",
    )
    if length.isdecimal() and int(length) > options.max_body:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(options.body_timeout):
            async for chunk in request.stream():
                body += chunk
                state.uploading += len(chunk)
                if len(body) > options.max_body:
                    raise too_large
                if state.uploading > BODIES * options.max_body:
                    raise HTTPException(503, "Too many uploads. Try again later.", {"Retry-After": "1"})
    except TimeoutError:
        raise HTTPException(
            408,
            f"The body must arrive within {options.body_timeout:g} s. Received: {len(body):,} bytes of "
            "it. Send a smaller image, or use a faster connection.",
            {"Connection": "close"},
        ) from None
    finally:
        state.uploading -= len(body)
    if not body:
        raise HTTPException(400, f"{images.EXPECTED}. Received: an empty body.")
    if kind.lower().startswith("multipart/form-data"):
        return file_in_form(bytes(body), kind)
    return bytes(body)


def file_in_form(body, content_type):
    """The bytes of the first file in a form (RFC 7578), as a browser or `curl -F` sends it."""
    parts = []
    if found := BOUNDARY.search(content_type):
        boundary = b"\r\n--" + (found[1] or found[2]).encode("latin-1")
        parts = (b"\r\n" + body).split(boundary, MAX_FORM_PARTS)
    for part in parts[1:-1]:  # between the first boundary and the last
        end = part.find(b"\r\n\r\n", 0, MAX_PART_HEAD)
        if FILE_HEAD.search(part[: max(end, 0)]):
            if file := part[end + 4 :]:
                return file
    raise HTTPException(
        400,
        f"The form must have a file among at most {MAX_FORM_PARTS} fields. Received: a form without a "
        "complete file. Send one as curl -F file=@photo.jpg does.",
    )


def check_size(image, fixed):
    height, width, _ = image.shape
    if height != (fixed[1] or height) or width != (fixed[2] or width):
        raise HTTPException(
            422,
            f"The image must be {fixed[2]} × {fixed[1]} (width × height), the size that this model was "
            f"exported for. Received: {width} × {height}. Resize it, or export the model for any size.",
        )


async def unless_gone(request, work):
    """Returns the result of `work`, which is cancelled if the client hangs up."""

    async def gone():
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.create_task(work), asyncio.create_task(gone())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ClientDisconnect
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()


async def not_found(request, error):
    path = short(request.scope["path"])
    message = f"{path} does not exist. POST an image to /segment, or open / in a browser."
    return JSONResponse({"error": message}, 404)


async def wrong_method(request, error):
    allowed = error.headers["Allow"]
    path, method = request.scope["path"], short(request.method)
    message = f"The method for {path} must be {allowed}. Received: {method}"
    return JSONResponse({"error": message}, 405, error.headers)


async def page(request):
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": PAGE_POLICY})


async def classes(request):
    model = request.app.state.model
    return JSONResponse(
        [
            {"index": i, "label": label, "color": color}
            for i, (label, color) in enumerate(zip(model.labels, model.palette.tolist(), strict=True))
        ]
    )


async def health(request):
    state = request.app.state
    live = not state.queue.stuck()
    ready = live and state.ready
    record = {"live": live, "ready": ready, "warm_up_seconds": round(state.warm_up_seconds, 4)}
    return JSONResponse(record, 200 if ready else 503)


async def metrics(request):
    return Response(
        prometheus_client.generate_latest(), media_type=prometheus_client.CONTENT_TYPE_LATEST
    )


@contextlib.asynccontextmanager
async def lifespan(app):
    state = app.state
    with ThreadPoolExecutor(os.cpu_count(), "codec") as state.codecs:
        state.decoders = Decoders(
            os.cpu_count(), state.options.decode_timeout, state.options.max_pixels
        )
        with contextlib.closing(state.decoders):
            async with state.queue.running():
                state.ready = True
                yield
                state.ready = False


def make_app(model, queue, options):
    app = Starlette(
        routes=[
            Route("/", page),
            Route("/segment", segment, methods=["POST"]),
            Route("/classes", classes),
            Route("/health", health),
            Route("/metrics", metrics),
        ],
        exception_handlers={404: not_found, 405: wrong_method},
        lifespan=lifespan,
    )
    app.state.model, app.state.queue, app.state.options = model, queue, options
    app.state.ready, app.state.uploading = False, 0
    WAITING.set_function(lambda: len(queue.waiting))
    EXPECTED_WAIT.set_function(queue.expected_wait)
    return app


def arguments():
    parser = argparse.ArgumentParser(
        description="Serves an exported EncNet: POST an image to /segment, or open / in a browser.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    cores = os.cpu_count()
    add("model", help="the ONNX file that model.export wrote")
    add("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 means all")
    add("--port", type=int, default=8000, help="0 means any free port")
    # Two workers that share the threads were a quarter slower in total.
    add("--workers", type=int, default=1, help="batches that run at the same time")
    add("--threads", type=int, default=cores, help="processor threads of the model")
    add("--max-batch", type=int, default=4, help="images in a batch, all of one size")
    add("--max-wait", type=float, default=0, help="ms that an idle worker waits for more images")
    add("--max-latency", type=float, default=5, help="s within which images are answered or refused")
    add("--max-queue", type=int, default=64, help="images that are admitted at the same time")
    add("--max-body", type=int, default=20_000_000, help="bytes of an image file")
    add("--max-pixels", type=int, default=16_000_000, help="pixels of an image")
    add("--timeout", type=float, default=30, help="s after which an admitted image is given up")
    add("--decode-timeout", type=float, default=5, help="s after which a decoder is killed")
    add(
        "--body-timeout",
        type=float,
        default=15,
        help="s for a request to arrive or an answer to be read",
    )
    add("--max-connections", type=int, default=500, help="open connections")
    add("--grace", type=float, default=8, help="s to answer what is in flight after SIGTERM")
    options = parser.parse_args()
    for name, value in vars(options).items():
        zero = name in ("port", "max_wait")
        if not isinstance(value, str) and (value < 0 or value == 0 and not zero):
            least = "0 or more" if zero else "more than 0"
            parser.error(f"--{name.replace('_', '-')} must be {least}. Received: {value}")
    if options.port > 65535:
        parser.error(f"--port must be 65535 or less. Received: {options.port}")
    return options


def main():
    options = arguments()
    brief_log.set_up()
    try:
        listener = socket.create_server((options.host, options.port), backlog=1024)
        # Otherwise the end of an answer waits up to 40 ms until the client confirms the beginning.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as error:
        sys.exit(f"Cannot listen on {options.host}:{options.port}: {error}. Choose another --port.")
    try:
        model = inference.Model(options.model, options.threads)
    except ValueError as error:
        sys.exit(str(error))
    queue = inference.Queue(
        model,
        workers=options.workers,
        max_batch=model.fixed[0] or options.max_batch,
        max_wait=options.max_wait / 1000,
        max_latency=options.max_latency,
        timeout=options.timeout,
        max_images=options.max_queue,
        max_pixels=4 * options.max_pixels,
    )
    app = make_app(model, queue, options)
    app.state.warm_up_seconds = queue.warm_up()
    connections.Protocol.patience = options.body_timeout
    connections.Protocol.most = connections.allow(options.max_connections)
    config = uvicorn.Config(
        app,
        http=connections.Protocol,
        ws="none",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        backlog=connections.BACKLOG,
        timeout_graceful_shutdown=options.grace,
    )
    host, port = listener.getsockname()[:2]
    print(
        f"Serving {options.model} ({len(model.labels)} classes, {app.state.warm_up_seconds:.2f} s at "
        f"warm-up) at http://{host}:{port}",
        flush=True,
    )
    # uvicorn answers what is in flight and then calls this handler.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with contextlib.suppress(KeyboardInterrupt):
        connections.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()

"""The model, and the queue of images that wait for it."""

import asyncio
import colorsys
import contextlib
import json
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import onnxruntime
from prometheus_client import Histogram
from starlette.exceptions import HTTPException

BATCH_SIZES = Histogram("encnet_batch_size", "Images in a batch.", buckets=(1, 2, 4, 8, 16, 32))
MODEL_SECONDS = Histogram("encnet_model_seconds", "Seconds of the model per batch.")


# Fractions of the promised time. Images are admitted up to the first, because speed varies; one that
# cannot be done by the second is refused, because sending the answer takes time too.
PLANNED, LATEST = 0.7, 0.85
BATCH_PIXELS = 1 << 21  # in one batch; its memory grows with them
TRIAL = 600  # s after which an image that seems too large is tried, because the estimate may be wrong


@dataclass(eq=False)
class Job:
    """An image, the future for its answer, and when it was admitted."""

    image: np.ndarray
    answer: asyncio.Future
    since: float


class Model:
    """An exported ONNX file: from `images` to `labels` and, if the file has them, `presence` and
    `confidence`.

    Attributes:
        labels: names of the classes.
        palette: their colours, `uint8` `(classes, 3)`.
        fixed: the `(batch, height, width)` that the file was exported for, 0 where any is accepted.

    Raises:
        ValueError: if the file is not such a model.
    """

    def __init__(self, path, threads):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        # Spinning threads would take processor time from decoding and encoding.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self.session = onnxruntime.InferenceSession(
                path, options, providers=onnxruntime.get_available_providers()
            )
        except Exception as error:
            raise ValueError(f"ONNX Runtime cannot load {str(path)!r}: {error}") from error
        inputs = self.session.get_inputs()
        outputs = {output.name: output for output in self.session.get_outputs()}
        if [(i.name, i.type, len(i.shape)) for i in inputs] != [("images", "tensor(uint8)", 4)]:
            given = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
            raise ValueError(
                f"{str(path)!r} must have one input, `images`, uint8 (batch, height, width, 3). "
                f'Received: {given}. Write the file with model.export(path, format="onnx").'
            )
        if "labels" not in outputs:
            raise ValueError(
                f"{str(path)!r} must have an output `labels`. Received: {', '.join(outputs)}. Export "
                "it with `labels` in `outputs`, as by default."
            )
        self.fixed = tuple(n if isinstance(n, int) else 0 for n in inputs[0].shape[:3])
        self.outputs = [name for name in ("labels", "presence", "confidence") if name in outputs]
        known = self.session.get_modelmeta().custom_metadata_map
        labels = json.loads(known.get("labels", "[]"))
        palette = json.loads(known.get("palette", "[]"))
        presence = outputs["presence"].shape[-1] if "presence" in outputs else None
        classes = len(labels) or len(palette) or (presence if isinstance(presence, int) else 256)
        labels = labels or [f"class {i}" for i in range(classes)]
        self.labels = [
            name if labels.count(name) == 1 else f"{name} (class {i})" for i, name in enumerate(labels)
        ]
        self.palette = np.array(palette or [_colour(i) for i in range(classes)], "uint8")
        if self.palette.shape != (classes, 3):
            raise ValueError(
                f"{str(path)!r} must have a palette of shape ({classes}, 3) for its {classes} classes. "
                f"Received shape: {self.palette.shape}. Export it again."
            )

    def __call__(self, images, seconds=3600):
        """Runs `uint8` images `(n, height, width, 3)`; returns a dict for each: `labels`
        `(height, width)`, `presence` `(classes,)` and `confidence` `(height, width)`; the last two are
        `None` if the file has no such output.

        Raises:
            Exception: ONNX Runtime's, of many types, also if the run takes more than `seconds`.
        """
        count, batch = len(images), self.fixed[0] or len(images)
        if count < batch:
            images = np.concatenate([images, np.repeat(images[-1:], batch - count, axis=0)])
        options = onnxruntime.RunOptions()
        if images[..., 0].size > BATCH_PIXELS:
            # Otherwise ONNX Runtime keeps the memory of a large image for the next one.
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        limit = threading.Timer(seconds, setattr, (options, "terminate", True))
        limit.daemon = True
        limit.start()
        try:
            run = self.session.run(self.outputs, {"images": images}, options)
        finally:
            limit.cancel()
        nothing = {"presence": None, "confidence": None}
        return [
            nothing | {name: value[i] for name, value in zip(self.outputs, run, strict=True)}
            for i in range(count)
        ]


class Cost:
    """Predicts an image's seconds from its pixels, by a line fitted to the last images."""

    def __init__(self, memory=20):
        self.keep = 1 - 1 / memory
        self.sums = np.zeros(5)

    def learn(self, pixels, seconds):
        x = pixels / 1e6
        self.sums = self.keep * self.sums + [1, x, seconds, x * x, x * seconds]

    def __call__(self, pixels):
        _, x, y, xx, xy = self.sums / self.sums[0]
        variance, steepest = xx - x * x, y / x
        if variance < (0.05 * x) ** 2:  # all of the same size so far
            slope = steepest
        else:
            slope = min(max((xy - x * y) / variance, 0), steepest)
        return y + slope * (pixels / 1e6 - x)


class Queue:
    """Runs the model on waiting images, in batches of one size, and admits no more images than it can
    answer within `max_latency` seconds.

    Args:
        model: a `Model`.
        workers: number of batches that run at the same time.
        max_batch: largest number of images in a batch.
        max_wait: seconds that an image waits for others of its size while a worker is idle.
        max_latency: promised seconds from admission to answer, which are kept by refusing images.
        timeout: seconds after which a run of the model is ended.
        max_images, max_pixels: limits on all admitted images together, because they take memory.
    """

    def __init__(
        self, model, *, workers, max_batch, max_wait, max_latency, timeout, max_images, max_pixels
    ):
        self.model, self.workers = model, workers
        self.max_batch, self.max_wait, self.max_latency = max_batch, max_wait, max_latency
        self.timeout, self.max_images, self.max_pixels = timeout, max_images, max_pixels
        self.admitted = []  # pixels of each image between its header and its answer
        self.waiting = []
        self.running_since = set()  # when each batch that runs was begun
        self.next_trial = -math.inf
        self.tasks = []
        self.cost = Cost()

    def expected_wait(self, pixels=0):
        """Expected seconds until an image of `pixels`, if admitted now, is answered."""
        return sum(map(self.cost, self.admitted)) / self.workers + (self.cost(pixels) if pixels else 0)

    def check(self, pixels=0):
        """Raises `HTTPException` (503) if an image of `pixels` could not be answered in time."""
        full = len(self.admitted) >= self.max_images or sum(self.admitted) + pixels > self.max_pixels
        late = self.expected_wait(pixels) > PLANNED * self.max_latency
        # An idle worker takes any image that alone is in time.
        if len(self.admitted) >= self.workers and (full or late):
            raise self.busy()
        if pixels and self.cost(pixels) > self.max_latency:
            if time.monotonic() < self.next_trial:
                raise self.too_slow(pixels)
            self.next_trial = time.monotonic() + TRIAL

    def too_slow(self, pixels):
        return HTTPException(
            413,
            f"The image must be small enough for the model to take at most {self.max_latency:g} s. "
            f"Received: {pixels:,} pixels, for about {self.cost(pixels):.0f} s. Send a smaller one.",
        )

    def stuck(self):
        """Whether nothing moves: a batch runs for longer than `timeout`, or a worker has ended."""
        late = any(time.monotonic() - since > self.timeout for since in self.running_since.copy())
        return late or any(task.done() for task in self.tasks)

    def busy(self):
        seconds = math.ceil(self.expected_wait())
        return HTTPException(
            503,
            f"The server is busy and cannot answer within {self.max_latency:g} s: {len(self.admitted)} "
            f"images come first. Try again in {seconds} s.",
            {"Retry-After": str(seconds)},
        )

    @contextlib.contextmanager
    def admit(self, pixels):
        """Counts an image as admitted, and yields the time; raises like `check`."""
        self.check(pixels)
        self.admitted.append(pixels)
        try:
            yield asyncio.get_running_loop().time()
        finally:
            self.admitted.remove(pixels)

    async def run(self, image, since):
        """The model's outputs for an image that was admitted at the time `since`."""
        job = Job(image, asyncio.get_running_loop().create_future(), since)
        async with self.arrived:
            self.waiting.append(job)
            self.arrived.notify_all()
        try:
            return await job.answer
        finally:
            if job in self.waiting:  # the client is gone
                self.waiting.remove(job)

    @contextlib.asynccontextmanager
    async def running(self):
        """Runs images while the context is open."""
        self.arrived = asyncio.Condition()
        with ThreadPoolExecutor(self.workers, "model") as pool:
            self.tasks = [asyncio.create_task(self._work(pool)) for _ in range(self.workers)]
            yield
            for task in self.tasks:
                task.cancel()

    def warm_up(self):
        """Runs the model twice; returns the seconds of the second run, because the first includes
        its preparation."""
        batch, height, width = np.where(self.model.fixed, self.model.fixed, (1, 512, 512))
        for _ in range(2):
            start = time.perf_counter()
            self.model(np.zeros((batch, height, width, 3), "uint8"))
            seconds = time.perf_counter() - start
        self.cost.learn(height * width, seconds / batch)
        return seconds

    async def _work(self, pool):
        loop = asyncio.get_running_loop()
        while True:
            jobs = await self._next()
            start = loop.time()
            try:
                images = np.stack([job.image for job in jobs])
                answers = await loop.run_in_executor(pool, self._timed, images)
            except Exception as error:
                answers = [error] * len(jobs)
            if not isinstance(answers[0], Exception) or loop.time() - start > self.timeout:
                # The worker's time, not just the model's: images wait for the worker.
                self.cost.learn(images[0, ..., 0].size, (loop.time() - start) / len(images))
            for job, answer in zip(jobs, answers, strict=True):
                self._finish(job, answer)

    async def _next(self):
        """Waits for the next batch: the job that has waited longest, and others of its size."""
        now = asyncio.get_running_loop().time
        async with self.arrived:
            while True:
                await self.arrived.wait_for(lambda: self.waiting)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(self.waiting[0].since + self.max_wait):
                        await self.arrived.wait_for(lambda: not self.waiting or self._batch()[1])
                while self.waiting:  # another worker may have taken them
                    jobs, _ = self._batch()
                    run = len(jobs) * self.cost(jobs[0].image[..., 0].size)
                    if now() - jobs[0].since < max(
                        LATEST * self.max_latency - run, self.max_latency / 2
                    ):
                        self.waiting = [job for job in self.waiting if job not in jobs]
                        return jobs
                    self._finish(self.waiting.pop(0), self.busy())

    def _finish(self, job, answer):
        if job.answer.done():  # cancelled
            return
        if isinstance(answer, Exception):
            job.answer.set_exception(answer)
        else:
            job.answer.set_result(answer)

    def _batch(self):
        height, width, _ = shape = self.waiting[0].image.shape
        pixels = height * width
        # The first image of a batch waits for the last.
        in_time = int(self.max_latency / 8 / self.cost(pixels))
        most = max(1, min(self.max_batch, BATCH_PIXELS // pixels, in_time))
        jobs = [job for job in self.waiting if job.image.shape == shape][:most]
        return jobs, len(jobs) == most

    def _timed(self, images):
        start = time.monotonic()
        self.running_since.add(start)
        try:
            found = self.model(images, self.timeout)
        finally:
            self.running_since.discard(start)
        MODEL_SECONDS.observe(time.monotonic() - start)
        BATCH_SIZES.observe(len(images))
        return found


def _colour(i):
    """A default colour for class `i`: well-separated hues, in three tones."""
    saturation, value = ((0.8, 0.9), (0.5, 1), (0.9, 0.6))[i % 3]
    return [round(255 * v) for v in colorsys.hsv_to_rgb(i * 0.618034 % 1, saturation, value)]

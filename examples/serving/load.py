"""Measures the server's throughput and latency, compared with the model alone.

    python load.py photo.jpg --url http://127.0.0.1:8000 --concurrency 4    # a closed loop
    python load.py photo.jpg --url http://127.0.0.1:8000 --rate 20          # an open loop
    python load.py photo.jpg --model model.onnx                             # the model alone
    python load.py photo.jpg --overload model.onnx --promise 2              # the overload check
    python load.py photo.jpg --concurrency 4 --attack                       # without and under attack

A closed loop sends the next request after the answer to the last; an open loop sends at a fixed rate,
as many independent clients do, and measures latency from when a request was due. The overload check
measures the model alone (ONNX Runtime on all processors in its own process, without server, decoding
or encoding), starts a server with the options after `--`, sends it three times as many images as the
model alone can process, measures again ten seconds later, and exits with 1 if a promise was not kept.
Clients and server share the processors.
"""

import argparse
import asyncio
import collections
import contextlib
import dataclasses
import functools
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

HERE = Path(__file__).parent
REFUSED = {429, 503}
ATTACK_STARTS = 4  # s until its files are made and its connections opened


async def exchange(connection, request):
    """Sends a request over an open connection; returns the status of the answer."""
    reader, writer = connection
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    await reader.readexactly(int(re.search(rb"content-length: (\d+)", head, re.I)[1]))
    return int(head.split(b" ", 2)[1])


async def send(address, request, idle):
    """Sends a request, if possible over an idle connection; returns the status, 0 without answer."""
    while True:
        fresh = not idle
        try:
            connection = await asyncio.open_connection(*address) if fresh else idle.pop()
            status = await exchange(connection, request)
        except (OSError, asyncio.IncompleteReadError):
            if fresh:
                return 0
            continue  # the server has closed the idle connection
        idle.append(connection)
        return status


async def measure(address, request, seconds, *, concurrency=None, rate=None, watch=None):
    """Sends requests for `seconds`; returns `(due, status, latency)` of each, with `due` in seconds
    since the start."""
    records, idle, start = [], [], time.perf_counter()
    watching = asyncio.create_task(watch()) if watch else None

    async def one(due):
        status = await send(address, request, idle)
        records.append((due, status, time.perf_counter() - start - due))

    async def loop():
        while (due := time.perf_counter() - start) < seconds:
            await one(due)

    if concurrency:
        await asyncio.gather(*(loop() for _ in range(concurrency)))
    else:
        tasks = []
        for i in range(round(rate * seconds)):
            await asyncio.sleep(start + i / rate - time.perf_counter())
            tasks.append(asyncio.create_task(one(i / rate)))
        await asyncio.gather(*tasks)
    for _, writer in idle:
        writer.close()
    if watching:
        watching.cancel()
    return records


def percentiles(latencies):
    p50, p90, p99 = np.percentile(latencies, [50, 90, 99]) if len(latencies) else [np.nan] * 3
    return f"p50 {p50:.3f} s, p90 {p90:.3f} s, p99 {p99:.3f} s"


def report(name, records, seconds):
    """Prints the results; returns the images answered per second while requests were being sent."""
    answered = [latency for _, status, latency in records if status == 200]
    in_time = sum(due + latency <= seconds for due, status, latency in records if status == 200)
    counts = collections.Counter(status for _, status, _ in records)
    statuses = ", ".join(f"{count} × {status or 'no answer'}" for status, count in counts.items())
    print(f"{name}: {in_time / seconds:.2f} images/s; {percentiles(answered)}; {statuses}", flush=True)
    refused = [latency for _, status, latency in records if status in REFUSED]
    if refused:
        print(f"    refusals: {percentiles(refused)}")
    return in_time / seconds


def alone(path, photo, seconds, threads, workers):
    """Runs the model on a decoded photo, without a server; returns images per second, processor
    seconds per image, and latencies."""
    import decoders
    import images
    import inference

    picture = images.inspect(photo.read_bytes(), 1 << 40)
    pixels = np.asarray(decoders.rgb(*dataclasses.astuple(picture)))[None]
    model = inference.Model(path, threads)
    model(pixels)
    latencies, start, work = [], time.perf_counter(), time.process_time()

    def loop():
        while time.perf_counter() - start < seconds:
            before = time.perf_counter()
            model(pixels)
            latencies.append(time.perf_counter() - before)

    loops = [threading.Thread(target=loop) for _ in range(workers)]
    for each in loops:
        each.start()
    for each in loops:
        each.join()
    rate = len(latencies) / (time.perf_counter() - start)
    return rate, (time.process_time() - work) / len(latencies), latencies


def bare(path, options):
    """Measures the model alone in its own process; returns the images per second, with one image at a
    time or one per processor, whichever is faster."""
    command = [sys.executable, __file__, options.photo, "--model", path, "--json"]
    command += ["--seconds", str(options.seconds), "--threads", str(options.threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    rate, work, latencies, workers = json.loads(done.stdout)
    print(
        f"the model alone, {workers} at a time: {rate:.2f} images/s; {percentiles(latencies)}; "
        f"{work:.3f} processor seconds per image",
        flush=True,
    )
    return rate


def family(process, file):
    """The texts of a file in /proc for a server's process and its decoders, on Linux."""
    pids = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for pid in [process.pid, *pids]:
        with contextlib.suppress(OSError):  # a decoder may have been replaced
            yield Path(f"/proc/{pid}/{file}").read_text()


def memory(process):
    """Resident bytes of a server and its decoders."""
    sizes = [re.search(r"VmRSS:\s+(\d+)", text) for text in family(process, "status")]
    return 1024 * sum(int(size[1]) for size in sizes if size)


def work(process):
    """Processor seconds of a server and its decoders."""
    times = [text.rsplit(") ")[1].split()[11:13] for text in family(process, "stat")]
    return sum(int(user) + int(system) for user, system in times) / os.sysconf("SC_CLK_TCK")


def overload(options, body):
    """Overloads a server and prints the measurements; returns whether it keeps its promises."""
    path, calm, flood = options.overload, options.seconds / 2, options.seconds
    rates = [bare(path, options)]
    command = [sys.executable, str(HERE / "server.py"), path, "--port", "0", *options.server]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        ready = server.stdout.readline().strip()
        print(ready, flush=True)
        url = urlsplit(ready.rsplit(" ", 1)[-1])
        address, request = (url.hostname, url.port), prepared(body, url.netloc)
        before = asyncio.run(measure(address, request, calm, concurrency=1))
        report("one client, before", before, calm)

        sizes, start = [], work(server)
        watch = functools.partial(watching, server, sizes)
        rate = 3 * rates[0]
        during = asyncio.run(measure(address, request, flood, rate=rate, watch=watch))
        got = report(f"three times as many, {rate:.1f} per second", during, flood)
        accepted = [latency for _, status, latency in during if status == 200]
        each = (work(server) - start) / len(accepted)
        print(f"    {each:.3f} processor seconds of the server per answered image")
        print(f"    memory: {' '.join(f'{size / 1e6:.0f}' for size in sizes[:: len(sizes) // 10])} MB")

        time.sleep(10)
        after = asyncio.run(measure(address, request, calm, concurrency=1))
        report("one client, 10 s later", after, calm)
    finally:
        server.terminate()
        server.wait()
    rates.append(bare(path, options))

    share, p99 = got / np.mean(rates), np.percentile(accepted, 99)
    half = len(sizes) // 2
    early, late = max(sizes[:half]) / 1e6, max(sizes[half:]) / 1e6
    was, now = (np.median([latency for _, _, latency in part]) for part in (before, after))
    checks = {
        f"throughput: {share:.0%} of the model alone (at least 80 %)": share >= 0.8,
        f"p99 of accepted requests: {p99:.2f} s (at most {options.promise:g} s)": p99
        <= options.promise,
        "all others answered with 429 or 503": {status for _, status, _ in during} <= REFUSED | {200},
        f"memory: {late:.0f} MB after {early:.0f} MB (at most 10 % more)": late <= 1.1 * early,
        f"median 10 s later: {now:.3f} s, before {was:.3f} s (at most 50 % more)": now <= 1.5 * was,
    }
    for text, good in checks.items():
        print("ok  " if good else "FAIL", text)
    return all(checks.values())


@contextlib.contextmanager
def attacking(url, seconds):
    """Attacks the server from another process; the counts are printed at the end."""
    command = [sys.executable, str(HERE / "attacks.py"), url, "--seconds", str(seconds)]
    attack = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    time.sleep(ATTACK_STARTS)
    try:
        yield
    finally:
        print(f"the attack:\n{attack.communicate()[0]}", end="", flush=True)


async def watching(server, sizes):
    while True:
        sizes.append(memory(server))
        await asyncio.sleep(0.2)


def prepared(body, host):
    return (
        f"POST /segment HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )


def main():
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("photo", help="the image to send")
    add("--url", default="http://127.0.0.1:8000", help="a running server")
    add("--seconds", type=float, default=20, help="length of a measurement")
    add("--concurrency", type=int, default=1, help="closed loop: requests at the same time")
    add("--rate", type=float, help="open loop: requests per second")
    add("--model", help="an ONNX file: measure the model alone")
    add("--overload", help="an ONNX file: run the overload check with it")
    add("--promise", type=float, default=5, help="p99 in seconds: the server's --max-latency")
    add(
        "--attack",
        action="store_true",
        help="measure again while attacks.py runs: only your own server",
    )
    add("--threads", type=int, default=os.cpu_count(), help="processor threads of the model alone")
    add("--json", action="store_true", help="print the figures of the model alone as JSON")
    options = parser.parse_args(arguments[:split])
    options.server = ["--max-latency", str(options.promise), *arguments[split + 1 :]]
    photo = Path(options.photo)
    if options.json:
        parts = sorted({1, options.threads})
        seconds = options.seconds / len(parts)
        found = [(*alone(options.model, photo, seconds, options.threads, n), n) for n in parts]
        print(json.dumps(max(found)))
    elif options.model:
        bare(options.model, options)
    elif options.overload:
        sys.exit(not overload(options, photo.read_bytes()))
    else:
        url = urlsplit(options.url)
        address, request = (url.hostname, url.port or 80), prepared(photo.read_bytes(), url.netloc)
        loop = {"rate": options.rate} if options.rate else {"concurrency": options.concurrency}
        records = asyncio.run(measure(address, request, options.seconds, **loop))
        report("the server", records, options.seconds)
        if options.attack:
            with attacking(options.url, options.seconds + ATTACK_STARTS):
                records = asyncio.run(measure(address, request, options.seconds, **loop))
                report("the server under attack", records, options.seconds)


if __name__ == "__main__":
    main()

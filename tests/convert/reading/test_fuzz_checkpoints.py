"""Random damage to checkpoints gives weights or an error that names the file, and nothing else.

`pytest -n0 -s --fuzz 100000 tests/convert/reading/test_fuzz_checkpoints.py` takes about five minutes on
one core, and prints how many inputs were read and refused.
"""

import collections
import contextlib
import io
import json
import pickletools
import random
import sys
import tempfile
import time
import zipfile

import handmade as make
import numpy as np
import pytest
from test_checkpoint import (
    BODY,
    COUNT,
    HEADER,
    KINDS,
    NUMBERS,
    SAVED,
    STORAGES,
    numpy_array,
    write_small,
)
from test_hostile import FORBIDDEN, HARMLESS

from keras_encnet.convert.reading.checkpoint import read_checkpoint

# For one input. The budget of a small file is 64 MiB, and the arrays that are read from it come on top.
SECONDS, MEMORY = 20, 2**29

# What a reader must never do; raised by Python itself, see "Audit events table" in its documentation.
FORBIDDEN_EVENTS = (
    "import",
    "exec",
    "compile",
    "os.",
    "subprocess.",
    "socket.",
    "ctypes.",
    "pickle.",
    "shutil.",
)

# Opcodes that make much of little.
AMPLIFIERS = [
    *(
        make.name("builtins", kind) + b"q\xfd](" + b"K\1" * 500 + b"e\x85q\xfc" + b"h\xfdh\xfcR" * 2000
        for kind in ("list", "tuple", "set", "frozenset")
    ),
    make.name("_codecs", "encode") + b"q\xfd" + make.value("é" * 1000)
    + make.value("latin1") + b"\x86q\xfc" + b"h\xfdh\xfcR" * 1000,
    b"](" + numpy_array(np.zeros(1000)) + b"q\xfd" + b"h\xfd" * 2000 + b"e",
    b"](" + make.tensor("7", 3, (2**22,), (0,)) + b"q\xfd" + b"h\xfd" * 2000 + b"e",
    make.value("w") + make.tensor("7", 3, (2**30, 0), (0, 0)) + b"s",
    make.value("w") + make.tensor("7", 3, (2**25,), (0,)) + b"s",
    make.value("v") + make.tensor("7", 3, (2**23,), (0,)) + b"s",
    make.value("u") + make.tensor("7", 3, (2**13, 2**13), (0, 0)) + b"s",
]  # fmt: skip

NUMBERS_TO_TRY = (
    0,
    1,
    2,
    3,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63,
)


def chunks_of(data):
    """A pickle as a list of opcodes with their arguments."""
    positions = [position for _, _, position in pickletools.genops(data)]
    ends = [*positions[1:], positions[-1] + 1]
    return [data[start:end] for start, end in zip(positions, ends, strict=True)]


def split_legacy(data):
    """(start of the file, opcodes of the state dict, rest of the file)."""
    file = io.BytesIO(data)
    ends = [(collections.deque(pickletools.genops(file), 1), file.tell())[1] for _ in range(4)]
    return data[: ends[2]], chunks_of(data[ends[2] : ends[3]]), data[ends[3] :]


def unzipped(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def seeds(tmp_path_factory):
    """Valid files: format → name → bytes."""
    path, found = tmp_path_factory.mktemp("seeds") / "x", {}
    for kind in KINDS:
        write_small(path, kind)
        found[kind] = path.read_bytes()
    found |= {
        stem: (SAVED / f"{stem}.pth").read_bytes() for stem in ("kinds_legacy", "kinds_zip", "runner")
    }
    return found


class Mutations:
    """Damaged files, each from one of the seeds; `random` decides on everything."""

    def __init__(self, seeds):
        self.seeds = list(seeds.values())
        self.legacy = [split_legacy(seeds[name]) for name in ("legacy", "kinds_legacy")]
        self.zips = [unzipped(seeds[name]) for name in ("zip", "zip around zip", "kinds_zip", "runner")]
        hostile = [part for part, _ in FORBIDDEN.values()] + list(HARMLESS.values())
        own = [chunk for _, chunks, _ in self.legacy for chunk in chunks]
        # The longest parts take a second each, and have tests of their own.
        self.pool = (
            [part for part in hostile if len(part) < 1000] + own + [bytes([i]) for i in range(256)]
        )
        self.pool += 4 * AMPLIFIERS

    def make(self, random):
        """(the kind of damage, the damaged file)."""
        kind = random.choice(("bytes", "opcodes", "opcodes", "members", "header"))
        return kind, getattr(self, kind)(random)

    def bytes(self, random):
        data = bytearray(random.choice(self.seeds))
        for _ in range(random.choice((1, 1, 2, 8))):
            self._damage(data, random)
        return bytes(data)

    def _damage(self, data, random):
        position = random.randrange(len(data) + 1)
        end = min(len(data), position + random.choice((1, 4, 64, len(data))))
        match random.randrange(8):
            case 0 | 1:
                if position < len(data):
                    data[position] ^= 1 << random.randrange(8)
            case 2:
                data[position:end] = random.randbytes(end - position)
            case 3:
                del data[position:]
            case 4:
                del data[position:end]
            case 5:
                data[position:position] = data[position:end] * random.choice((1, 2, 50))
            case 6:
                other = random.choice(self.seeds)
                data[position:] = other[random.randrange(len(other)) :]
            case 7:
                size = random.choice((1, 2, 4, 8))
                number = random.choice(NUMBERS_TO_TRY) % 256**size
                data[position : position + size] = number.to_bytes(
                    size, random.choice(("little", "big"))
                )
        if not data:
            data.append(random.randrange(256))

    def opcodes(self, random):
        """Another program in a file that is correct around it."""
        if random.randrange(8) == 0:
            lists = {key: self._list(random) for key in random.sample(("meta", "optimizer", "x"), 2)}
            return make.legacy(make.dict_of(**lists, model=BODY), STORAGES)
        if random.randrange(2):
            start, chunks, rest = random.choice(self.legacy)
            return start + self._program(chunks, random) + rest
        members = dict(random.choice(self.zips))
        for name in members:
            if name.endswith("data.pkl"):
                members[name] = self._program(chunks_of(members[name]), random)
        return self._zip(members, random)

    def _list(self, random):
        pool = random.choice((self.pool, AMPLIFIERS))
        return b"](" + b"".join(random.choices(pool, k=random.choice((1, 2, 4)))) + b"e"

    def _program(self, chunks, random):
        chunks = list(chunks)
        for _ in range(random.choice((1, 1, 2, 5))):
            position, other = random.randrange(len(chunks)), random.randrange(len(chunks))
            few = random.choice((1, 1, 3, 20))
            match random.randrange(8):
                case 0:
                    del chunks[position : position + few]
                case 1:
                    chunks[position:position] = chunks[other : other + few]
                case 2:
                    chunks[position], chunks[other] = chunks[other], chunks[position]
                case 3:
                    chunks[position : position + random.randrange(2)] = [random.choice(self.pool)]
                case 4:  # one object many times
                    again = random.choice((b"h%c" % random.randrange(8), b"2", chunks[position]))
                    many = min(random.choice((2, 100, 2000)), 20_000 // len(again))
                    chunks[position:position] = [again] * many
                case 5:  # one object many times in a list
                    again = (b"q\xfe", b"](", b"h\xfe" * random.choice((2, 2000)), b"e")
                    chunks[position:position] = again
                case 6:
                    number = random.choice(NUMBERS_TO_TRY) * random.choice((1, 1, -1))
                    chunks[position : position + random.randrange(2)] = [make.value(number)]
                case 7:
                    data = bytearray(chunks[position])
                    data[random.randrange(len(data))] = random.randrange(256)
                    chunks[position] = bytes(data)
            chunks = chunks or [b"."]
        return b"".join(chunks)

    def members(self, random):
        """Another directory, other members or other headers of a zip."""
        members = dict(random.choice(self.zips))
        for _ in range(random.choice((0, 1, 2))):
            name = random.choice(list(members))
            match random.randrange(5):
                case 0:
                    del members[name]
                case 1:
                    new = random.choice(
                        ("../x", "/x", "data.pkl", "a/data.pkl", "x.pth", "byteorder", "é" * 9)
                    )
                    members[new] = members.pop(name)
                case 2:
                    data = bytearray(members[name] or b"\0")
                    self._damage(data, random)
                    members[name] = bytes(data)
                case 3:
                    members[name] = bytes(random.choice((0, 1, 2**16)))
                case 4:
                    members[name] = random.choice(self.seeds)
            members = members or {"x": b""}
        data = bytearray(self._zip(members, random))
        for _ in range(random.choice((0, 1, 1, 3))):
            signature = random.choice((b"PK\3\4", b"PK\1\2", b"PK\5\6"))
            places = [i for i in range(len(data)) if data.startswith(signature, i)]
            if places:
                field = random.choice(places) + random.randrange(4, 46)
                size = random.choice((1, 2, 4))
                number = random.choice(NUMBERS_TO_TRY) % 256**size
                data[field : field + size] = number.to_bytes(size, "little")
        return bytes(data)

    def _zip(self, members, random):
        data = make.zipped(
            io.BytesIO(), members, random.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
        )
        if random.randrange(4) == 0:
            data = make.zipped(io.BytesIO(), {"x.pth": data.getvalue()})
        return data.getvalue()

    def header(self, random):
        """Another JSON header in front of the data of a `.safetensors` file."""
        header = json.loads(json.dumps(HEADER))
        for _ in range(random.choice((1, 1, 3))):
            name = random.choice(("n", "w", "other", "__metadata__"))
            entry = header.setdefault(name, {})
            value = random.choice(
                (*NUMBERS_TO_TRY, -1, 1.5, "F32", "F8_E4M3", "x", None, True, [], {}, [3], [0, 8],
                 [8, 20], [2**40, 0], [1] * 40, [[0]], "x" * 1000, float("nan"))
            )  # fmt: skip
            if random.randrange(6) == 0 or type(entry) is not dict:
                header[name] = value
            else:
                entry[random.choice(("dtype", "shape", "data_offsets", "x"))] = value
        text = json.dumps(header).encode()
        if random.randrange(4) == 0:
            text = bytearray(text)
            self._damage(text, random)
        return make.safetensors(bytes(text), (COUNT + NUMBERS) * random.choice((1, 1, 1, 2)))


class Watch:
    """Notes what Python does while `on`; an audit hook cannot be removed, so there is one."""

    on, allowed, seen = False, "", []


def note(event, arguments):
    if not Watch.on:
        return
    opened_elsewhere = event == "open" and not str(arguments[0]).startswith(Watch.allowed)
    if opened_elsewhere or event.startswith(FORBIDDEN_EVENTS):
        Watch.seen.append((event, str(arguments)[:100]))


@contextlib.contextmanager
def little_memory():
    """Lets this process take only `MEMORY` bytes more than it has, on Linux."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


REASONS = {
    "more memory than is free": "too much memory",
    "truncated or damaged": "damaged",
    "bytes of memory": "budget",
    "which weights do not need": "a forbidden name or call",
    "zip": "a zip",
    "state": "no state dict",
}


def outcome(path):
    """What became of a file: "read", or in a word why not."""
    try:
        for tensor in read_checkpoint(path).state.values():
            np.asarray(tensor)
    except (ValueError, OSError) as error:
        message = str(error)
        assert str(path) in message and len(message) < 2000, message[:2000]
        return next((kind for mark, kind in REASONS.items() if mark in message), "another reason")
    return "read"


def test_damaged_checkpoints_are_read_or_refused(fuzz, seeds, tmp_path):
    count, seed = fuzz
    mutations, path = Mutations(seeds), tmp_path / "x.pth"
    for data in seeds.values():  # imports what Python imports late, such as encodings
        path.write_bytes(data)
        assert outcome(path) == "read"
    counts, slowest = collections.Counter(), (0, None)
    sys.addaudithook(note)
    Watch.allowed = (str(path), tempfile.gettempdir())
    before = peak()
    with little_memory():
        for index in range(count):
            kind, data = mutations.make(random.Random(f"{seed}/{index}"))
            path.write_bytes(data)
            Watch.seen, Watch.on, start = [], True, time.process_time()
            try:
                result = outcome(path)
                problem = "too much memory" if result == "too much memory" else None
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            finally:
                Watch.on, seconds = False, time.process_time() - start
            if Watch.seen:
                problem = f"it did {Watch.seen[:3]}"
            if seconds > SECONDS:
                problem = f"it took {seconds:.1f} s"
            if problem:
                saved = tmp_path / "failed.pth"
                saved.write_bytes(data)
                pytest.fail(f"--fuzz-seed {seed}, input {index} ({kind}), saved as {saved}: {problem}")
            counts[kind, result] += 1
            slowest = max(slowest, (seconds, index))
    print(f"\n{count} inputs of seed {seed}; slowest: input {slowest[1]}, {slowest[0]:.2f} s")
    print(f"peak memory: {peak() - before} MB more than before")
    for (kind, result), number in sorted(counts.items()):
        print(f"{kind:10} {result:26} {number:7}")


def peak():
    """The largest memory that this process has had, in MB; 0 where it is not known."""
    if not sys.platform.startswith("linux"):
        return 0
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

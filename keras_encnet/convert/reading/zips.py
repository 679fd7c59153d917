"""The members of a zip file, read without writing any of their names to disk."""

import re
import shutil
import struct
import tempfile
import zipfile
import zlib

from keras_encnet.convert.reading.blobs import Blob, File
from keras_encnet.convert.reading.errors import Refused, damaged, quoted

# Python's record of a member takes about this many bytes.
MEMBER_COST = 1024


def members(blob: Blob) -> dict[str, Blob]:
    """The files in a zip, by name.

    Stored members are parts of the zip itself. Compressed ones are unpacked into one temporary file
    without a name. All are compared with their checksums.

    Raises:
        Refused: if a name is a path outside the zip or occurs twice, if members overlap, are encrypted
            or compressed by an unsupported method, if their declared size means a zip bomb, or if one
            has another checksum.
    """
    with zipfile.ZipFile(blob.open()) as archive:
        infos = archive.infolist()
        spans = sorted(_span(blob, info) for info in infos)
        spans.append((archive.start_dir, archive.start_dir))
        for (_, end), (start, _) in zip(spans, spans[1:], strict=False):
            if end > start:
                raise Refused("is a zip file with overlapping members, which is a sign of a zip bomb.")
        declared = sum(info.file_size for info in infos if info.compress_type != zipfile.ZIP_STORED)
        if declared > blob.budget.left:
            raise Refused(
                f"is a zip file of {blob.size} bytes with a declared unpacked size of {declared}: a "
                "zip bomb, not weights."
            )
        blob.budget.spend(declared + MEMBER_COST * len(infos))
        return _unpack(blob, archive, [info for info in infos if not info.is_dir()])


def _span(blob, info):
    name = info.orig_filename
    parts = re.split(r"[/\\]", name)
    if ".." in parts or parts[0] == "" or re.match("[A-Za-z]:", name) or "\0" in name:
        raise Refused(
            f"is a zip file with a member named {quoted(name)}, a path outside it. Get the file from "
            "another source."
        )
    if info.flag_bits & 1:
        raise Refused(f"is an encrypted zip file ({quoted(name)}). Unpack it and pass what is inside.")
    return info.header_offset, _data_start(blob, info) + info.compress_size


def _data_start(blob, info):
    header = blob.part(info.header_offset, 30).read().tobytes()
    signature, name_size, extra_size = struct.unpack("<4s22xHH", header)
    name = blob.part(info.header_offset + 30, name_size).read().tobytes()
    encoding = "utf-8" if info.flag_bits & 0x800 else "cp437"
    if signature != b"PK\3\4" or name != info.orig_filename.encode(encoding):
        raise damaged(f"its member {quoted(info.orig_filename)} is not where its directory says")
    start = info.header_offset + 30 + name_size + extra_size
    blob.part(start, info.compress_size)
    return start


def _unpack(blob, archive, infos):
    found, scratch = {}, None
    # PyTorch writes no checksums, that is zeros, after `torch.serialization.set_crc32_options(False)`.
    checked = any(info.CRC for info in infos)
    for info in infos:
        name = info.orig_filename
        if name in found:
            raise Refused(f"is a zip file with two members named {quoted(name)}.")
        if info.compress_type == zipfile.ZIP_STORED:
            if info.file_size != info.compress_size:
                raise damaged(f"its member {quoted(name)} has two sizes")
            found[name] = blob.part(_data_start(blob, info), info.file_size)
            if checked and _checksum(found[name]) != info.CRC:
                raise damaged(f"its member {quoted(name)} does not have the checksum that it should")
        elif info.compress_type == zipfile.ZIP_DEFLATED:
            if scratch is None:
                scratch = tempfile.TemporaryFile(buffering=0)
                file = File(scratch, blob.file.name, blob.budget)
            found[name] = Blob(file, scratch.tell(), info.file_size)
            with archive.open(info) as member:
                shutil.copyfileobj(member, scratch, 2**20)
            if scratch.tell() != found[name].start + info.file_size:
                raise damaged(f"its member {quoted(name)} is shorter than its directory says")
        else:
            raise Refused(
                f"is a zip file with an unsupported compression (method {info.compress_type}). Unpack "
                "it and pass what is inside."
            )
    return found


def _checksum(blob):
    checksum = 0
    with blob.open() as file:
        while chunk := file.read(2**20):
            checksum = zlib.crc32(chunk, checksum)
    return checksum

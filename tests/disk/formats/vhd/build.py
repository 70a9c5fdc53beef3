"""VHD files straight from the "Virtual Hard Disk Image Format Specification", independent of what is tested."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

BLOCK = 2 << 20
SECTOR = 512


def with_checksum(content: bytes, at: int) -> bytes:
    blank = content[:at] + bytes(4) + content[at + 4 :]
    return content[:at] + struct.pack(">I", ~sum(blank) & 0xFFFFFFFF) + content[at + 4 :]


def footer(
    size: int,
    kind: int,
    *,
    creator: bytes = b"win ",
    geometry: tuple[int, int, int] = (65535, 16, 255),
    unique_id: bytes = b"unique id of one",
    time_stamp: int = 1,
    version: int = 0x10000,
    data_offset: int = 512,
) -> bytes:
    content = struct.pack(">8sIIQ", b"conectix", 2, version, data_offset if kind != 2 else (1 << 64) - 1)
    content += struct.pack(">I4sI4sQQ", time_stamp, creator, 0x60001, b"Wi2k", size, size)
    content += struct.pack(">HBBII16sB", *geometry, kind, 0, unique_id, 0)
    return with_checksum(content.ljust(512, b"\0"), 64)


def differencing(
    size: int,
    blocks: Mapping[int, tuple[bytes, bytes]],
    *,
    parent_id: bytes,
    parent_name: str = "",
    locators: Sequence[tuple[bytes, bytes]] = (),
    parent_time: int = 0,
    unique_id: bytes = b"the child's id..",
    kind: int = 4,
    block_size: int = BLOCK,
) -> bytes:
    """`blocks`: number -> sector bitmap and data; `locators`: platform code and the name's bytes."""
    entries = -(-size // block_size)
    end = 1536 + -(-entries * 4 // SECTOR) * SECTOR
    areas = b""
    table = b""
    for code, name in locators:
        table += struct.pack(">4sIIIQ", code, 1, len(name), 0, end + len(areas))
        areas += name.ljust(-(-len(name) // SECTOR) * SECTOR, b"\0")
    header = struct.pack(">8sQQIIII", b"cxsparse", (1 << 64) - 1, 1536, 0x10000, entries, block_size, 0)
    header += struct.pack(">16sII512s", parent_id, parent_time, 0, parent_name.encode("utf-16-be"))
    header = with_checksum((header + table).ljust(1024, b"\0"), 36)
    bat = [0xFFFFFFFF] * entries
    body = b""
    for number, (bitmap, data) in blocks.items():
        bat[number] = (end + len(areas) + len(body)) // SECTOR
        body += bitmap.ljust(-(-len(bitmap) // SECTOR) * SECTOR, b"\0") + data.ljust(block_size, b"\0")
    packed_bat = struct.pack(f">{entries}I", *bat).ljust(end - 1536, b"\xff")
    last = footer(size, kind, unique_id=unique_id)
    return last + header + packed_bat + areas + body + last

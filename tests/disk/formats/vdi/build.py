"""VDI files straight from the fields of the header, independent of what is tested."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

MIB = 1 << 20


def vdi(
    size: int,
    entries: Sequence[int],
    blocks: Sequence[bytes] = (),
    *,
    kind: int = 1,
    block_size: int = MIB,
    extra: int = 0,
    version: int = 0x00010001,
    header_bytes: int = 0x190,
    uuids: Sequence[bytes] = (b"c" * 16, b"m" * 16, bytes(16), bytes(16)),
    fields: Mapping[str, int] = {},
) -> bytes:
    """An image with the block map at 512 and the data at the next sector; each block has `extra` bytes before it."""
    data_offset = 512 + -(-len(entries) * 4 // 512) * 512
    values = {
        "offBlocks": 512,
        "offData": data_offset,
        "cbDisk": size,
        "cbBlock": block_size,
        "cbBlockExtra": extra,
        "cBlocks": len(entries),
        "cBlocksAllocated": sum(1 for entry in entries if entry < 0xFFFFFFFE),
        **fields,
    }
    image = bytearray(data_offset)
    image[:40] = b"<<< Oracle VM VirtualBox Disk Image >>>\n"
    struct.pack_into("<II", image, 64, 0xBEDA107F, version)
    struct.pack_into("<II", image, 72, header_bytes, kind)
    struct.pack_into("<II", image, 0x154, values["offBlocks"], values["offData"])
    struct.pack_into("<I", image, 0x168, 512)
    struct.pack_into("<Q", image, 0x170, values["cbDisk"])
    struct.pack_into("<IIII", image, 0x178, *(values[n] for n in ("cbBlock", "cbBlockExtra", "cBlocks")), 0)
    struct.pack_into("<I", image, 0x184, values["cBlocksAllocated"])
    image[0x188 : 0x188 + 64] = b"".join(uuids)
    struct.pack_into(f"<{len(entries)}I", image, 512, *entries)
    return bytes(image) + b"".join(b"\xee" * extra + block.ljust(block_size, b"\0") for block in blocks)

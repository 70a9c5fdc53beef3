"""VHDX files straight from [MS-VHDX], independent of what is tested."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import google_crc32c

MIB = 1 << 20
LOG_OFFSET, LOG_BYTES = MIB, MIB
BAT_OFFSET, METADATA_OFFSET, DATA_OFFSET = 2 * MIB, 3 * MIB, 4 * MIB
NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, PRESENT, PARTIAL = 0, 1, 2, 3, 6, 7
NIL, DATA_WRITE_GUID = uuid.UUID(int=0), uuid.UUID(int=7)
LOG_GUID = uuid.UUID("11111111-2222-3333-4444-555555555555")


def with_crc(content: bytes) -> bytes:
    blank = content[:4] + bytes(4) + content[8:]
    return content[:4] + struct.pack("<I", google_crc32c.value(blank)) + content[8:]


def guid(text: str) -> bytes:
    return uuid.UUID(text).bytes_le


@dataclass
class Disk:
    """What a file holds. `blocks`: number -> state, data, and of partial ones the sectors that are present."""

    size: int
    blocks: Mapping[int, tuple[int, bytes, Sequence[int]]] = field(default_factory=dict)
    block_size: int = MIB
    sector_size: int = 512
    locator: Mapping[str, str] | None = None
    log: bytes = b""
    log_guid: uuid.UUID = NIL
    data_write_guid: uuid.UUID = DATA_WRITE_GUID
    extra_regions: Sequence[bytes] = ()
    extra_items: Sequence[bytes] = ()

    def build(self) -> bytes:
        identifier = b"vhdxfile" + "a test".encode("utf-16-le")
        regions = struct.pack("<16sQII", guid("2DC27766-F623-4200-9D64-115E9BFD4A08"), BAT_OFFSET, MIB, 1)
        regions += struct.pack("<16sQII", guid("8B7CA206-4790-4B9A-B8FE-575F050F886E"), METADATA_OFFSET, MIB, 1)
        regions += b"".join(self.extra_regions)
        table = with_crc((struct.pack("<4sIII", b"regi", 0, len(regions) // 32, 0) + regions).ljust(65536, b"\0"))
        bat, data = self._blocks()
        parts = [
            identifier.ljust(65536, b"\0"),
            self._header(4).ljust(65536, b"\0"),
            self._header(5).ljust(65536, b"\0"),
            table,
            table,
        ]
        start = b"".join(parts).ljust(LOG_OFFSET, b"\0")
        return b"".join(
            (
                start,
                self.log.ljust(LOG_BYTES, b"\0"),
                bat.ljust(MIB, b"\0"),
                self._metadata().ljust(MIB, b"\0"),
                data,
            )
        )

    def _header(self, sequence: int) -> bytes:
        guids = (uuid.UUID(int=6).bytes_le, self.data_write_guid.bytes_le, self.log_guid.bytes_le)
        content = struct.pack("<4sIQ16s16s16sHHIQ", b"head", 0, sequence, *guids, 0, 1, LOG_BYTES, LOG_OFFSET)
        return with_crc(content.ljust(4096, b"\0"))

    def _metadata(self) -> bytes:
        parameters = struct.pack("<II", self.block_size, 2 if self.locator is not None else 0)
        items = [
            (guid("CAA16737-FA36-4D43-B3B6-33F0AA44E76B"), parameters, 4),
            (guid("2FA54224-CD1B-4876-B211-5DBED83BF4B8"), struct.pack("<Q", self.size), 6),
            (guid("BECA12AB-B2E6-4523-93EF-C309E000C746"), uuid.UUID(int=9).bytes_le, 6),
            (guid("8141BF1D-A96F-4709-BA47-F233A8FAAB5F"), struct.pack("<I", self.sector_size), 6),
            (guid("CDA348C7-445D-4471-9CC9-E9885251C556"), struct.pack("<I", 4096), 6),
        ]
        if self.locator is not None:
            items.append((guid("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C"), self._locator(self.locator), 4))
        entries, body = b"", b""
        for item, content, flags in items:
            entries += struct.pack("<16sIIII", item, 65536 + len(body), len(content), flags, 0)
            body += content
        entries += b"".join(self.extra_items)
        return (struct.pack("<8sHH20x", b"metadata", 0, len(entries) // 32) + entries).ljust(65536, b"\0") + body

    @staticmethod
    def _locator(pairs: Mapping[str, str]) -> bytes:
        header = struct.pack("<16sHH", guid("B04AEFB7-D19E-4A81-B789-25B8E9445913"), 0, len(pairs))
        start = len(header) + 12 * len(pairs)
        texts = b""
        for key, value in pairs.items():
            raw = key.encode("utf-16-le"), value.encode("utf-16-le")
            at = start + len(texts)
            header += struct.pack("<IIHH", at, at + len(raw[0]), len(raw[0]), len(raw[1]))
            texts += raw[0] + raw[1]
        return header + texts

    def _blocks(self) -> tuple[bytes, bytes]:
        ratio = (1 << 23) * self.sector_size // self.block_size
        count = -(-self.size // self.block_size)
        chunks = max(1, -(-count // ratio))
        bat = [0] * (chunks * (ratio + 1))
        data = b""
        bitmaps: dict[int, bytearray] = {}
        for number, (state, content, sectors) in self.blocks.items():
            index = number + number // ratio
            bat[index] = state
            if state in (PRESENT, PARTIAL):
                bat[index] |= DATA_OFFSET + len(data)
                data += content.ljust(self.block_size, b"\0")
            if state == PARTIAL:
                bitmap = bitmaps.setdefault(number // ratio, bytearray(MIB))
                for sector in sectors:
                    bit = number % ratio * (self.block_size // self.sector_size) + sector
                    bitmap[bit // 8] |= 1 << bit % 8
        for chunk, bitmap in bitmaps.items():
            bat[chunk * (ratio + 1) + ratio] = 6 | DATA_OFFSET + len(data)
            data += bitmap
        return struct.pack(f"<{len(bat)}Q", *bat), data


def log_entry(
    sequence: int,
    tail: int,
    changes: Sequence[tuple[int, bytes | int]],
    *,
    file_size: int,
    last: int | None = None,
    log_guid: uuid.UUID = LOG_GUID,
) -> bytes:
    """An entry that writes sectors of 4 KiB, or zeros where a change is a number of bytes."""
    descriptors, sectors = b"", b""
    for offset, change in changes:
        if isinstance(change, int):
            descriptors += struct.pack("<4sIQQQ", b"zero", 0, change, offset, sequence)
        else:
            descriptors += struct.pack("<4s4s8sQQ", b"desc", change[-4:], change[:8], offset, sequence)
            sectors += struct.pack("<4sI", b"data", sequence >> 32) + change[8:-4]
            sectors += struct.pack("<I", sequence & 0xFFFFFFFF)
    area = -(-(64 + len(descriptors)) // 4096) * 4096
    header = struct.pack("<4sIIIQII", b"loge", 0, area + len(sectors), tail, sequence, len(changes), 0)
    header += struct.pack("<16sQQ", log_guid.bytes_le, file_size, last or file_size)
    return with_crc((header + descriptors).ljust(area, b"\0") + sectors)

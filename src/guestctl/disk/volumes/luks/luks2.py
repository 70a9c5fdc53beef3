"""The header of LUKS2, as in the LUKS2 On-Disk Format Specification 1.1.1: binary headers (big-endian), then JSON.

There are two. Of those whose checksum is right the one with the higher sequence number counts.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Any, NamedTuple

import msgspec

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.volumes.luks.header import (
    PRIMARY_MAGIC,
    SECONDARY_MAGIC,
    Digest,
    Header,
    Kdf,
    KeySlot,
    Segment,
    invalid,
    text,
)

# magic, version, hdr_size, seqid, label, csum_alg, salt, uuid, subsystem, hdr_offset; then padding and csum
_BINARY_HEADER = struct.Struct(">6sHQQ48s32s64s40s48sQ")
BINARY_HEADER_BYTES = 4096
_CHECKSUM = slice(448, 512)
HEADER_SIZES = tuple(0x4000 << power for power in range(9))  # where the second header may begin, too
_MAX_NUMBER = 1 << 62


class BinaryHeader(NamedTuple):
    """Its first fields, of which no checksum was verified."""

    magic: bytes
    version: int
    size: int
    sequence: int
    label: str
    checksum_algorithm: str
    uuid: str
    subsystem: str
    offset: int


def parse_binary_header(raw: bytes) -> BinaryHeader:
    magic, version, size, sequence, label, algorithm, _, uuid, subsystem, offset = _BINARY_HEADER.unpack_from(raw)
    return BinaryHeader(
        magic, version, size, sequence, text(label), text(algorithm), text(uuid), text(subsystem), offset
    )


class _Area(msgspec.Struct):
    offset: int
    encryption: str
    key_size: int


class _Kdf(msgspec.Struct):
    type: str
    salt: bytes
    hash: str = ""
    iterations: int = 0
    time: int = 0
    memory: int = 0
    cpus: int = 0


class _Splitter(msgspec.Struct):
    type: str
    stripes: int
    hash: str


class _KeySlot(msgspec.Struct):
    key_size: int
    area: _Area
    kdf: _Kdf
    af: _Splitter
    priority: int = 1


class _KeySlotType(msgspec.Struct):
    type: str


class _Segment(msgspec.Struct):
    type: str
    offset: int
    size: str  # a number or "dynamic"
    encryption: str = ""
    sector_size: int = 512
    iv_tweak: int = 0
    integrity: Any = None


class _Digest(msgspec.Struct):
    type: str
    keyslots: list[str]
    segments: list[str]
    salt: bytes
    digest: bytes
    hash: str
    iterations: int


class _Config(msgspec.Struct):
    requirements: dict[str, list[str]] | list[str] = []


class _Metadata(msgspec.Struct):
    keyslots: dict[str, msgspec.Raw]
    segments: dict[str, _Segment]
    digests: dict[str, _Digest]
    config: _Config


def read_header(device: BlockDevice) -> Header:
    """The newer of the two headers. Raises `InvalidFormat`, `UnsupportedFeature` and of those what the first had."""
    found: list[tuple[int, bytes, str]] = []
    damage: InvalidFormat | None = None
    sizes = HEADER_SIZES
    try:
        binary, json = _read_copy(device, 0, PRIMARY_MAGIC)
        found.append((binary.sequence, json, binary.uuid))
        sizes = (binary.size,)
    except InvalidFormat as error:
        damage = error
    for offset in sizes:
        try:
            binary, json = _read_copy(device, offset, SECONDARY_MAGIC)
        except InvalidFormat as error:
            damage = damage or error
        else:
            found.append((binary.sequence, json, binary.uuid))
            break
    if not found:
        raise damage or invalid("there is none", 0)
    _, json, uuid = max(found, key=lambda copy: copy[0])
    header = parse_metadata(json, uuid)
    return header if damage is None else header._replace(warnings=(f"one of two headers is damaged: {damage}",))


def _read_copy(device: BlockDevice, offset: int, magic: bytes) -> tuple[BinaryHeader, bytes]:
    """A header and its JSON, the checksum verified."""
    binary = parse_binary_header(bytes(device.read(offset, BINARY_HEADER_BYTES)))
    if binary.magic != magic or binary.version != 2 or binary.offset != offset:
        raise invalid(f"magic is {binary.magic!r}, version {binary.version}, hdr_offset {binary.offset}", offset)
    if binary.size not in HEADER_SIZES or offset not in (0, binary.size):
        raise invalid(f"hdr_size is {binary.size}", offset)
    raw = bytearray(device.read(offset, binary.size))
    stored = bytes(raw[_CHECKSUM])
    raw[_CHECKSUM] = bytes(len(stored))
    if binary.checksum_algorithm not in ("sha1", "sha256", "sha512"):
        name = f"checksum {binary.checksum_algorithm}"
        raise UnsupportedFeature(f"a LUKS header with {name}", feature=name)
    computed = hashlib.new(binary.checksum_algorithm, raw).digest()
    if not hmac.compare_digest(computed, stored[: len(computed)]):
        raise invalid("the checksum is wrong", offset)
    return binary, bytes(raw[BINARY_HEADER_BYTES:]).partition(b"\0")[0]


def parse_metadata(json: bytes, uuid: str) -> Header:
    """The JSON area. Raises `InvalidFormat` and `UnsupportedFeature`."""
    try:
        metadata = msgspec.json.decode(json, type=_Metadata, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(str(error), BINARY_HEADER_BYTES, "LUKS2 metadata") from None
    requirements = metadata.config.requirements
    if isinstance(requirements, dict):
        requirements = requirements.get("mandatory", [])
    if requirements:
        raise UnsupportedFeature(f"a device that requires {', '.join(requirements)}", feature=requirements[0])
    names = sorted(metadata.segments, key=_number)
    segments = [_segment(metadata.segments[name]) for name in names]
    encrypted = [name for name, segment in zip(names, segments, strict=True) if segment.encryption is not None]
    digests = [digest for digest in metadata.digests.values() if set(encrypted) & set(digest.segments)]
    if not encrypted or len(digests) != 1 or not set(encrypted) <= set(digests[0].segments):
        raise invalid(f"{len(digests)} digests of {len(encrypted)} segments", BINARY_HEADER_BYTES, "LUKS2 metadata")
    digest = digests[0]
    if digest.type != "pbkdf2":
        raise UnsupportedFeature(f"a digest of type {digest.type}", feature=f"digest {digest.type}")
    return Header(
        uuid=uuid,
        slots=_slots(metadata.keyslots, digest.keyslots),
        digest=Digest(digest.hash, digest.salt, digest.iterations, digest.digest),
        segments=segments,
    )


def _segment(segment: _Segment) -> Segment:
    if segment.type not in ("crypt", "linear"):
        raise UnsupportedFeature(f"a segment of type {segment.type}", feature=f"segment {segment.type}")
    if segment.integrity is not None:
        raise UnsupportedFeature("LUKS2 with integrity", feature="integrity")
    size = None if segment.size == "dynamic" else _number(segment.size)[0]
    plausible = 0 <= segment.offset < _MAX_NUMBER and 0 <= segment.iv_tweak < _MAX_NUMBER
    if not plausible or segment.sector_size not in (512, 1024, 2048, 4096):
        raise invalid("a segment that cannot be", BINARY_HEADER_BYTES, "LUKS2 metadata")
    encryption = segment.encryption if segment.type == "crypt" else None
    return Segment(segment.offset, size, encryption, segment.sector_size, segment.iv_tweak)


def _slots(raw: dict[str, msgspec.Raw], names: list[str]) -> list[KeySlot]:
    """The slots called `names` that hold a volume key, those to be preferred first, without those to be ignored."""
    slots = []
    for name in sorted(set(names) & raw.keys(), key=_number):
        try:
            if msgspec.json.decode(raw[name], type=_KeySlotType).type != "luks2":
                continue
            slot = msgspec.json.decode(raw[name], type=_KeySlot, strict=False)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise invalid(f"key slot {name}: {error}", BINARY_HEADER_BYTES, "LUKS2 metadata") from None
        if slot.priority and slot.af.type == "luks1":
            slots.append((slot.priority, _slot(name, slot)))
    return [slot for _, slot in sorted(slots, key=lambda item: -item[0])]


def _slot(name: str, slot: _KeySlot) -> KeySlot:
    kdf = slot.kdf
    return KeySlot(
        id=name,
        kdf=Kdf(kdf.type, kdf.salt, kdf.hash, kdf.iterations or kdf.time, kdf.memory, kdf.cpus),
        area_offset=slot.area.offset,
        area_encryption=slot.area.encryption,
        area_key_bytes=slot.area.key_size,
        key_bytes=slot.key_size,
        stripes=slot.af.stripes,
        stripe_hash=slot.af.hash,
    )


def _number(text: str) -> tuple[int, str]:
    """The number that `text` is, or one that is too large; and the text, so that names have an order."""
    return (int(text), text) if text.isascii() and text.isdigit() and len(text) < 20 else (1 << 64, text)

"""LUKS, the Linux Unified Key Setup, versions 1 and 2.

===========================================  ==================================================
AES, Camellia and SM4 in XTS and CBC         read; IVs plain, plain64, plain64be, ESSIV, null
PBKDF2, Argon2i, Argon2id                    read, up to a bound of time and memory
LUKS2 sectors of 512 to 4096 bytes           read
LUKS2 key slot priorities, segments          read; plain (linear) segments too
LUKS2 headers                                the newer of the two sound ones, with a warning if one is damaged
detached headers                             a device that is nothing but a header belongs to the one device
                                             of the machine in which nothing else is known
Serpent, Twofish, other ciphers and modes    refused by name
integrity, OPAL, reencryption under way      refused by name
tokens (TPM, FIDO2, keyring)                 ignored; their key slots open with a passphrase only
===========================================  ==================================================

Specifications: LUKS On-Disk Format 1.2.3, LUKS2 On-Disk Format 1.1.1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from guestctl.block import BlockDevice, SliceDevice
from guestctl.core.errors import UnsupportedFeature
from guestctl.disk.encryption import EncryptedDevice
from guestctl.disk.filesystem import Identity
from guestctl.disk.volumes import Assembly, Member
from guestctl.disk.volumes.keys import Keys, unlock_each
from guestctl.disk.volumes.luks import luks1, luks2
from guestctl.disk.volumes.luks.ciphers import sector_cipher
from guestctl.disk.volumes.luks.header import PRIMARY_MAGIC, SECONDARY_MAGIC, Header, Segment, invalid
from guestctl.disk.volumes.luks.unlock import volume_key
from guestctl.disk.volumes.raid.linear import Concatenation


def identify(device: BlockDevice) -> Identity | None:
    """What ``blkid -p`` says of a LUKS header; of damaged ones the second."""
    for offset in (0, *luks2.HEADER_SIZES):
        length = luks1.HEADER_BYTES if offset == 0 else luks2.BINARY_HEADER_BYTES
        if offset + length > device.size:
            continue
        raw = bytes(device.read(offset, length))
        found = luks2.parse_binary_header(raw)
        if offset == 0 and found.magic == PRIMARY_MAGIC and found.version == 1:
            return Identity("crypto_LUKS", "crypto", version="1", uuid=luks1.parse_uuid(raw))
        magic = SECONDARY_MAGIC if offset else PRIMARY_MAGIC
        if found.magic == magic and found.version == 2 and found.offset == offset:
            return Identity("crypto_LUKS", "crypto", version="2", label=found.label or None, uuid=found.uuid)
    return None


def assemble(members: Sequence[Member], keys: Keys) -> Assembly:
    """The content of each, as ``/dev/mapper/luks-UUID``. Members without a header may be the data of a detached one."""
    headers = [member for member in members if identify(member.device) is not None]
    blank = [member for member in members if member not in headers]
    return unlock_each(headers, keys, lambda member: _Container(member, blank))


class _Container:
    """A header, and the device that its segments lie on."""

    kind = "LUKS"

    def __init__(self, member: Member, blank: Sequence[Member]) -> None:
        self._device = member.device
        identity = identify(member.device)
        assert identity is not None
        read = luks1.read_header if identity.version == "1" else luks2.read_header
        self._header: Header = read(member.device)
        self.uuid = self._header.uuid
        if not re.fullmatch("[0-9A-Za-z-]+", self.uuid):
            raise invalid(f"UUID {self.uuid!r}", 0)
        self.volume_name = f"/dev/mapper/luks-{self.uuid}"
        self.warnings = self._header.warnings
        data = member
        first = min(segment.offset for segment in self._header.segments)
        if first == 0 or first >= member.device.size:
            if len(blank) != 1:
                message = f"a detached header, and {len(blank)} devices that could be what it belongs to"
                raise UnsupportedFeature(message, feature="detached header")
            data = blank[0]
        self._data = data.device
        self.parents = tuple(dict.fromkeys((data.name, member.name)))

    def unlock(self, secret: bytes | None) -> BlockDevice | None:
        key = None if secret is None else volume_key(self._device, self._header, secret)
        if key is None:
            return None
        parts = [_open_segment(self._data, segment, key) for segment in self._header.segments]
        return parts[0] if len(parts) == 1 else Concatenation(parts)


def _open_segment(device: BlockDevice, segment: Segment, key: bytes) -> BlockDevice:
    size = device.size - segment.offset if segment.size is None else segment.size
    size -= size % segment.sector_bytes
    if size <= 0 or segment.offset + size > device.size:
        raise invalid(f"{size} bytes at {segment.offset:#x} of a device of {device.size}", 0, "segment")
    if segment.encryption is None:
        return SliceDevice(device, segment.offset, size)
    cipher = sector_cipher(segment.encryption, key, segment.sector_bytes, segment.iv_tweak)
    return EncryptedDevice(device, cipher, start=segment.offset, size=size)

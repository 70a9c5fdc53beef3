"""Key protectors: from a password, a recovery password, a startup key or a clear key to the keys of the volume.

A protector holds the volume master key (VMK), encrypted in AES-CCM under a key of its own; the VMK
encrypts the full volume encryption key (FVEK).
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from guestctl.core.errors import InvalidFormat
from guestctl.disk.volumes.bitlocker import metadata as M

_PROTECTOR = struct.Struct("<16sQHH")  # GUID, modified, unknown, type
_CLEAR_KEY = 0x0000
_STARTUP_KEY = 0x0200
_RECOVERY_PASSWORD = 0x0800
_PASSWORD = 0x2000
# A password takes a second for each that it is tried on; Windows makes a few.
_MAX_PROTECTORS = 32

_STRETCH_KEY = struct.Struct("<I16s")  # method, salt
_STRETCHES = 1 << 20
_NONCE_BYTES = 12
_MAC_BYTES = 16
_KEY_HEADER_BYTES = 12  # of a key that was encrypted: entry header and method
_EXTERNAL_KEY = struct.Struct("<16sQ")  # GUID of the protector, modified
_BEK_HEADER = struct.Struct("<4I")  # size, version, header size, copy of the size
_BEK_HEADER_BYTES = 48


class Protector(NamedTuple):
    """A way to the volume master key."""

    guid: bytes
    type: int
    entries: Sequence[M.Entry]


def protectors(metadata: M.Metadata) -> list[Protector]:
    found = []
    entries = (e for e in metadata.entries if e.type == M.ENTRY_VMK and e.value_type == M.VALUE_VMK)
    for entry in islice(entries, _MAX_PROTECTORS):
        if len(entry.data) >= _PROTECTOR.size:
            guid, _, _, type_ = _PROTECTOR.unpack_from(entry.data)
            nested = tuple(M.parse_entries(entry.data[_PROTECTOR.size :], 0))
            found.append(Protector(guid, type_, nested))
    return found


def volume_key(metadata: M.Metadata, secret: bytes | None) -> bytes | None:
    """The full volume encryption key, if `secret` opens a protector; None stands for the clear key."""
    for protector in protectors(metadata):
        for key in _keys(protector, secret):
            master_key = _decrypted_key(protector.entries, key)
            fvek = [entry for entry in metadata.entries if entry.type == M.ENTRY_FVEK]
            found = None if master_key is None else _decrypted_key(fvek, master_key)
            if found is not None:
                return found
    return None


def _keys(protector: Protector, secret: bytes | None) -> Iterator[bytes]:
    """What `secret` is for this kind of protector: keys that may decrypt the master key."""
    if secret is None:
        if protector.type == _CLEAR_KEY:
            yield from (e.data[4:] for e in protector.entries if e.value_type == M.VALUE_KEY)
    elif protector.type == _STARTUP_KEY:
        yield from _external_keys(secret, protector.guid)
    elif protector.type in (_PASSWORD, _RECOVERY_PASSWORD):
        is_password = protector.type == _PASSWORD
        hashed = _password_hash(secret) if is_password else _recovery_hash(secret)
        for entry in protector.entries:
            if hashed is not None and entry.value_type == M.VALUE_STRETCH_KEY and len(entry.data) >= _STRETCH_KEY.size:
                yield _stretch(hashed, _STRETCH_KEY.unpack_from(entry.data)[1])


def _external_keys(secret: bytes, guid: bytes) -> Iterator[bytes]:
    """The keys for a protector in the content of a .BEK file."""
    if len(secret) < _BEK_HEADER_BYTES:
        return
    size, version, header_bytes, _ = _BEK_HEADER.unpack_from(secret)
    if version != 1 or header_bytes != _BEK_HEADER_BYTES or size > len(secret):
        return
    try:
        for entry in M.parse_entries(secret[header_bytes:size], header_bytes):
            if entry.value_type == M.VALUE_EXTERNAL_KEY and entry.data[:16] == guid:
                for nested in M.parse_entries(entry.data[_EXTERNAL_KEY.size :], 0):
                    if nested.value_type == M.VALUE_KEY:
                        yield nested.data[4:]
    except InvalidFormat:
        return  # a passphrase that looked like a key file


def _password_hash(secret: bytes) -> bytes | None:
    try:
        text = secret.decode().encode("utf-16-le")
    except UnicodeError:
        return None
    return hashlib.sha256(hashlib.sha256(text).digest()).digest()


def _recovery_hash(secret: bytes) -> bytes | None:
    """Of 8 groups of 6 digits, each eleven times a number of 16 bits."""
    if not re.fullmatch(rb"\d{6}(-\d{6}){7}", secret):
        return None
    numbers = [int(group) for group in secret.split(b"-")]
    if any(number % 11 or number // 11 > 0xFFFF for number in numbers):
        return None
    return hashlib.sha256(struct.pack("<8H", *(number // 11 for number in numbers))).digest()


def _stretch(hashed: bytes, salt: bytes) -> bytes:
    sha256 = hashlib.sha256
    fixed = hashed + salt
    last = bytes(32)
    for count in range(_STRETCHES):
        last = sha256(last + fixed + count.to_bytes(8, "little")).digest()
    return last


def _decrypted_key(entries: Sequence[M.Entry], key: bytes) -> bytes | None:
    """The first key among `entries` that `key` decrypts."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESCCM

    start = _NONCE_BYTES + _MAC_BYTES
    for entry in entries:
        if entry.value_type != M.VALUE_ENCRYPTED_KEY or len(entry.data) <= start + _KEY_HEADER_BYTES or len(key) != 32:
            continue
        nonce, mac, encrypted = entry.data[:_NONCE_BYTES], entry.data[_NONCE_BYTES:start], entry.data[start:]
        try:
            return AESCCM(key).decrypt(nonce, encrypted + mac, None)[_KEY_HEADER_BYTES:]
        except InvalidTag:
            continue
    return None

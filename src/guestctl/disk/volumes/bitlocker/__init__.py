"""BitLocker drive encryption of Windows 7 and later, on fixed drives and as BitLocker To Go.

=========================================  ======================================================
AES-CBC 128 and 256, with and without      read
the Elephant diffuser; AES-XTS 128 and 256
password, recovery password, startup key   read; a startup key is the content of its .BEK file
(.BEK), clear key (protection suspended)
TPM protectors                             not used: what they need is in the machine
encryption under way or paused             read, but for a piece that was being converted
encryption on write (used space first)     refused by name until it is complete
Windows Vista (version 1), hardware        refused by name
encryption
=========================================  ======================================================

The first sectors of the volume are kept elsewhere on it; they, and the metadata blocks, read as zeros
in their own places, as with cryptsetup.
"""

from __future__ import annotations

from collections.abc import Sequence

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat, UnsupportedFeature
from guestctl.disk.filesystem import Identity
from guestctl.disk.volumes import Assembly, Member
from guestctl.disk.volumes.bitlocker.metadata import is_encrypted_on_write, is_vista, read_metadata
from guestctl.disk.volumes.bitlocker.protectors import volume_key
from guestctl.disk.volumes.bitlocker.volume import open_volume
from guestctl.disk.volumes.keys import Keys, unlock_each

_TYPE, _USAGE = "BitLocker", "crypto"


def identify(device: BlockDevice) -> Identity | None:
    """What ``blkid -p`` says of a BitLocker volume."""
    if is_vista(device):
        return Identity(_TYPE, _USAGE, version="1")
    metadata = read_metadata(device, verify=False)
    if metadata is None:
        return None
    return Identity(_TYPE, _USAGE, version="2", label=metadata.description, uuid=metadata.guid)


def assemble(members: Sequence[Member], keys: Keys) -> Assembly:
    """The content of each, as ``/dev/mapper/bitlk-GUID``."""
    return unlock_each(members, keys, _Container)


class _Container:
    kind = "BitLocker"

    def __init__(self, member: Member) -> None:
        self._device = member.device
        if is_vista(member.device):
            raise UnsupportedFeature("BitLocker of Windows Vista", feature="BitLocker version 1")
        metadata = read_metadata(member.device)
        if metadata is None:
            raise InvalidFormat("no BitLocker volume", structure="boot sector", offset=0)
        if is_encrypted_on_write(member.device):
            raise UnsupportedFeature(
                "a BitLocker volume that is encrypted as it is written", feature="BitLocker encryption on write"
            )
        self._metadata = metadata
        self.uuid = metadata.guid
        self.volume_name = f"/dev/mapper/bitlk-{metadata.guid}"
        self.parents: tuple[str, ...] = (member.name,)
        self.warnings: Sequence[str] = ()
        if metadata.damage is not None:
            self.warnings = (f"a copy of the metadata is damaged: {metadata.damage}",)

    def unlock(self, secret: bytes | None) -> BlockDevice | None:
        key = volume_key(self._metadata, secret)
        return None if key is None else open_volume(self._device, self._metadata, key)

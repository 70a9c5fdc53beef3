"""What a guest mounts, swaps on, unlocks and assembles. ``device`` is the machine's, None where there is none."""

from __future__ import annotations

import msgspec


class Mount(msgspec.Struct, frozen=True, kw_only=True):
    """A line of fstab(5)."""

    spec: str  # as it stands there: ``UUID=…``, ``/dev/vda1``, ``tmpfs``
    device: str | None
    mountpoint: str
    type: str
    options: list[str]


class Swap(msgspec.Struct, frozen=True, kw_only=True):
    """Swap space that fstab(5) names, or a device that holds some; then ``spec`` is None."""

    spec: str | None
    device: str | None
    options: list[str] = []


class EncryptedVolume(msgspec.Struct, frozen=True, kw_only=True):
    """A line of crypttab(5). ``key_file`` is None where a passphrase is asked for."""

    name: str
    spec: str
    device: str | None
    key_file: str | None
    options: list[str]


class Array(msgspec.Struct, frozen=True, kw_only=True):
    """An ARRAY line of mdadm.conf(5)."""

    name: str
    device: str | None
    uuid: str | None
    tags: dict[str, str] = {}


class Storage(msgspec.Struct, kw_only=True):
    """The configuration of a guest's storage. ``lvm`` has the filters of lvm.conf(5), as they stand there."""

    mounts: list[Mount] = []
    swap: list[Swap] = []
    encrypted: list[EncryptedVolume] = []
    arrays: list[Array] = []
    lvm: dict[str, str] = {}

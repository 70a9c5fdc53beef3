"""What inspection finds: the records that ``guestctl inspect --json`` prints, and its schema is made from.

Words and values are those of libguestfs's ``inspect_get_*`` where it has them; unknown is None. The records of
a view are in a module of their own.
"""

from __future__ import annotations

from typing import Any

import msgspec

from guestctl._version import __version__
from guestctl.detectors.report.details import Details
from guestctl.detectors.report.network import NetworkInterface


class Image(msgspec.Struct, frozen=True):
    """A disk of the machine."""

    device: str
    path: str
    format: str
    virtual_size: int  # bytes
    partition_table: str | None


class Filesystem(msgspec.Struct, frozen=True):
    """What a device holds; sizes in bytes, ``used`` is None where it cannot be read.

    ``parents`` are the devices that it lies on: the disk of a partition, the members of a volume.
    """

    device: str
    type: str
    label: str | None
    uuid: str | None
    size: int
    used: int | None
    parents: tuple[str, ...] = ()


class Application(msgspec.Struct, frozen=True):
    """An installed package, its version taken apart as its package manager does."""

    name: str
    epoch: int
    version: str
    release: str
    arch: str
    display_name: str = ""
    install_path: str = ""
    summary: str = ""
    description: str = ""
    url: str = ""
    publisher: str = ""
    source: str = ""


class Kernel(msgspec.Struct, frozen=True):
    """An installed kernel; ``modules`` tells whether its modules are there."""

    version: str
    path: str | None
    initramfs: str | None
    modules: bool


class User(msgspec.Struct, frozen=True):
    """An account with a login shell."""

    name: str
    uid: int
    gid: int
    comment: str
    home: str
    shell: str


class Guest(msgspec.Struct, kw_only=True):
    """One operating system. ``format`` is "installed", or "installer" of a medium, of which the next three speak."""

    root: str
    type: str = "unknown"
    format: str | None = None
    live: bool | None = None  # it starts a system that need not be installed
    netinst: bool | None = None  # what it installs comes from the network
    multipart: bool | None = None  # it is one of a set
    distro: str | None = None
    product_name: str | None = None
    product_variant: str | None = None
    major_version: int | None = None
    minor_version: int | None = None
    arch: str | None = None
    hostname: str | None = None
    osinfo: str | None = None
    package_format: str | None = None
    package_management: str | None = None
    init_system: str | None = None
    firmware: str | None = None
    mountpoints: dict[str, str] = {}
    filesystems: list[str] = []
    drive_mappings: dict[str, str] = {}
    windows_systemroot: str | None = None
    windows_current_control_set: str | None = None
    kernels: list[Kernel] = []
    applications: list[Application] | None = None
    timezone: str | None = None
    locale: str | None = None
    users: list[User] = []
    services: list[str] = []
    ssh_host_keys: list[str] = []
    network: list[NetworkInterface] = []
    details: Details | None = None


class Report(msgspec.Struct, kw_only=True):
    """Everything that ``guestctl inspect`` says of a machine."""

    guestctl: str = __version__
    images: list[Image] = []
    filesystems: list[Filesystem] = []
    guests: list[Guest] = []
    warnings: list[str] = []

    def to_json(self) -> str:
        """The report as indented JSON. A name that is no UTF-8 keeps its bytes as surrogate escapes."""
        try:
            return msgspec.json.format(msgspec.json.encode(self), indent=2).decode()
        except UnicodeEncodeError:
            import json

            return json.dumps(msgspec.to_builtins(self), indent=2)


def schema() -> dict[str, Any]:
    """The JSON Schema of the report."""
    return msgspec.json.schema(Report)

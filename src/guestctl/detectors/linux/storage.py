"""Storage: what fstab(5), crypttab(5), mdadm.conf(5) and lvm.conf(5) say, and the devices that they mean."""

from __future__ import annotations

import re
from collections.abc import Iterator

from guestctl.detectors.files import Tree, read_config
from guestctl.detectors.report.storage import Array, EncryptedVolume, Mount, Storage, Swap
from guestctl.detectors.system import System
from guestctl.machine.fstab import unescape

_MDADM_FILES = ("/etc/mdadm/mdadm.conf", "/etc/mdadm.conf")
_NO_KEY_FILE = ("none", "-")
_LVM_FILTER = re.compile(
    r'^[ \t]*+(?:devices/)?(filter|global_filter)\s*=\s*(\[(?:[^]"]++|"[^"]*+")*+\]|"[^"\n]*")', re.MULTILINE
)
_MAX_LINES = 1000


def storage(system: System) -> Storage:
    """The view of storage."""
    lines = list(_lines(system.tree, "/etc/fstab"))
    return Storage(
        mounts=[_mount(system, line) for line in lines if len(line) >= 3 and line[2] != "swap"],
        swap=list(_swap(system, [line for line in lines if len(line) >= 3 and line[2] == "swap"])),
        encrypted=[_encrypted(system, line) for line in _lines(system.tree, "/etc/crypttab") if len(line) >= 2],
        arrays=list(_arrays(system)),
        lvm=dict(_LVM_FILTER.findall(read_config(system.tree, "/etc/lvm/lvm.conf") or "")),
    )


def _lines(tree: Tree, path: str) -> Iterator[list[str]]:
    """The fields of each line that is no comment."""
    for line in (read_config(tree, path) or "").splitlines()[:_MAX_LINES]:
        fields = [unescape(field) for field in line.split()]
        if fields and not fields[0].startswith("#"):
            yield fields


def _options(fields: list[str], index: int) -> list[str]:
    return [one for one in fields[index].split(",") if one] if len(fields) > index else []


def _mount(system: System, fields: list[str]) -> Mount:
    spec, mountpoint, type_ = fields[:3]
    device = system.machine.find_device(spec)
    if device is None and spec.startswith("/dev/mapper/"):  # it may have been unlocked for the tree
        device = system.guest.mountpoints.get("/" + mountpoint.strip("/"))
    return Mount(spec=spec, device=device, mountpoint=mountpoint, type=type_, options=_options(fields, 3))


def _swap(system: System, lines: list[list[str]]) -> Iterator[Swap]:
    machine = system.machine
    named = set()
    for fields in lines:
        device = machine.find_device(fields[0])
        named.add(device)
        yield Swap(spec=fields[0], device=device, options=_options(fields, 3))
    for device, _, identity in machine.found():
        if identity is not None and identity.type == "swap" and device not in named:
            yield Swap(spec=None, device=device)


def _encrypted(system: System, fields: list[str]) -> EncryptedVolume:
    key_file = fields[2] if len(fields) > 2 and fields[2] not in _NO_KEY_FILE else None
    return EncryptedVolume(
        name=fields[0],
        spec=fields[1],
        device=system.machine.find_device(fields[1]),
        key_file=key_file,
        options=_options(fields, 3),
    )


def _arrays(system: System) -> Iterator[Array]:
    text = next((text for path in _MDADM_FILES if (text := read_config(system.tree, path)) is not None), "")
    # A line that begins with blanks goes on with the one before.
    for line in re.sub(r"\n[ \t]+", " ", re.sub(r"#.*", "", text)).splitlines()[:_MAX_LINES]:
        words = line.split()
        if len(words) < 2 or words[0].upper() != "ARRAY":
            continue
        tags = dict(word.partition("=")[::2] for word in words[1:] if "=" in word)
        tags = {key.lower(): value for key, value in tags.items()}
        uuid = tags.pop("uuid", None)
        name = words[1] if "=" not in words[1] else ""
        yield Array(name=name, device=_array_device(system, uuid), uuid=uuid, tags=tags)


def _array_device(system: System, uuid: str | None) -> str | None:
    """The device whose members have the UUID, which mdadm writes with other separators."""
    machine = system.machine
    digits = re.sub(r"[^0-9a-f]", "", (uuid or "").lower())
    for device in (*machine.devices, *machine.partitioned):
        for parent in machine.parents(device):
            identity = machine.identity(parent) if parent in machine.devices else None
            if identity and identity.type == "linux_raid_member" and (identity.uuid or "").replace("-", "") == digits:
                return device
    return None

"""systemd-boot: entries of the Boot Loader Specification and unified kernel images (loader.conf(5), systemd-boot(7)).

Both lie on the EFI system partition and on an extended boot loader partition. The ``default`` of
``loader/loader.conf`` is a pattern for the names of entries. What the firmware remembers (``@saved``, the default set
with ``bootctl``) is not on the disk: the first entry stands for it.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

from msgspec.structs import replace

from guestctl.detectors.linux.boot.bls import BlsEntry, sorted_entries, split_tries
from guestctl.detectors.linux.boot.bls import read_entries as read_bls_entries
from guestctl.detectors.linux.boot.efi import open_pe, release, unified_entry
from guestctl.detectors.linux.boot.places import Places
from guestctl.detectors.report.boot import BootEntry, BootLoader

_XBOOTLDR_TYPE = "bc13c2ff-59e6-4262-a352-b275fd6f7172"


def read_entries(places: Places, loaders: list[BootLoader]) -> list[BootEntry]:
    """The menu, where systemd-boot is among `loaders`."""
    if all(loader.name != "systemd-boot" for loader in loaders):
        return []
    machine = places.machine
    extended = [one for one in machine.devices if _type(places, one) == _XBOOTLDR_TYPE]
    found: list[tuple[BlsEntry, BootEntry]] = []
    for device in [*places.esps, *extended]:
        found += _type_1(places, device)
        found += _type_2(places, device)
    order = {entry.source: rank for rank, entry in enumerate(sorted_entries([entry for entry, _ in found]))}
    found.sort(key=lambda pair: order[pair[0].source])
    texts = (places.read_text(places.locate(esp, "/loader/loader.conf")) or "" for esp in places.esps)
    pattern = next(filter(None, map(_default_pattern, texts)), "")
    chosen = next((index for index, (entry, _) in enumerate(found) if _fits(entry, pattern)), 0)
    return [replace(entry, default=index == chosen) for index, (_, entry) in enumerate(found)]


def _fits(entry: BlsEntry, pattern: str) -> bool:
    """Whether a pattern of loader.conf names the entry; older ones leave ``.conf`` out."""
    name = entry.id.lower()
    return fnmatchcase(name, pattern.lower()) or fnmatchcase(f"{name}.conf", pattern.lower())


def _type(places: Places, device: str) -> str | None:
    partition = places.machine.partition(device)
    return partition.type.lower() if partition else None


def _default_pattern(text: str) -> str:
    words = (line.split(None, 1) for line in text.splitlines())
    return next((one[1].strip() for one in words if len(one) == 2 and one[0] == "default"), "")


def _type_1(places: Places, device: str) -> list[tuple[BlsEntry, BootEntry]]:
    return [
        (
            entry,
            BootEntry(
                title=entry.title,
                loader="systemd-boot",
                kernel=places.locate(device, entry.kernel) if entry.kernel else None,
                command_line=entry.options,
                initramfs=[places.locate(device, path) for path in entry.initrds],
                source=entry.source,
            ),
        )
        for entry in read_bls_entries(places, places.locate(device, "/loader/entries"))
    ]


def _type_2(places: Places, device: str) -> list[tuple[BlsEntry, BootEntry]]:
    """Unified kernel images, which have in their sections what sorts them."""
    directory = places.locate(device, "/EFI/Linux")
    found = []
    for name in places.listdir(directory):
        path = f"{directory}/{name}"
        pe = open_pe(places, path) if name.lower().endswith(".efi") else None
        if pe is None or ".linux" not in pe.sections:
            continue
        value = release(pe)
        id_, tries_left = split_tries(name[: -len(".efi")])
        entry = BlsEntry(
            id=f"{id_}.efi",
            source=path,
            title=value.get("PRETTY_NAME", ""),
            version=pe.text(".uname") or value.get("IMAGE_VERSION", "") or value.get("VERSION_ID", ""),
            machine_id="",
            sort_key=value.get("IMAGE_ID", "") or value.get("ID", ""),
            kernel=path,
            initrds=(),
            options="",
            bad=tries_left == 0,
        )
        found.append((entry, unified_entry(places, pe, path, loader="systemd-boot")))
    return found

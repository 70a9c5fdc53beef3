"""Entries of the Boot Loader Specification, type 1 (UAPI Group): a file each, ``loader/entries/*.conf``.

A line is a key, blanks and a value; ``initrd`` and ``options`` may come more than once. A name may end in the tries
that are left and were made: ``6.1+3-0.conf``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from guestctl.detectors.linux.boot.places import Places
from guestctl.detectors.linux.boot.versions import version_key


@dataclass(frozen=True, slots=True)
class BlsEntry:
    """An entry; paths are those of the filesystem that it is on."""

    id: str  # the name of the file without the tries
    source: str
    title: str
    version: str
    machine_id: str
    sort_key: str
    kernel: str | None
    initrds: tuple[str, ...]
    options: str
    bad: bool  # no tries are left


def read_entries(places: Places, directory: str) -> Iterator[BlsEntry]:
    """The entries in a directory, in the order of their names."""
    for name in places.listdir(directory):
        source = f"{directory}/{name}"
        text = places.read_text(source) if name.endswith(".conf") else None
        if text is not None:
            yield parse_entry(text, source)


def parse_entry(text: str, source: str) -> BlsEntry:
    """The entry that a file holds."""
    values: dict[str, list[str]] = {}
    for line in text.splitlines():
        key, _, value = line.strip().replace("\t", " ").partition(" ")
        if key and not key.startswith("#"):
            values.setdefault(key, []).append(value.strip())

    def last(key: str) -> str:
        return values.get(key, [""])[-1]

    id_, tries_left = split_tries(source.rpartition("/")[2].removesuffix(".conf"))
    return BlsEntry(
        id=id_,
        source=source,
        title=last("title") or last("version") or id_,
        version=last("version"),
        machine_id=last("machine-id"),
        sort_key=last("sort-key"),
        kernel=last("linux") or last("uki") or last("efi") or None,
        initrds=tuple(path for value in values.get("initrd", ()) for path in value.split()),
        options=" ".join(values.get("options", ())),
        bad=tries_left == 0,
    )


def split_tries(name: str) -> tuple[str, int | None]:
    """A name without the tries at its end, and how many are left; None where they are not counted."""
    match = re.fullmatch(r"(.+)\+(\d{1,9})(?:-\d{1,9})?", name)
    return (match[1], int(match[2])) if match else (name, None)


def sorted_entries(entries: list[BlsEntry]) -> list[BlsEntry]:
    """As the specification sorts a menu: sort keys, machines, newest versions first; those without a key behind."""
    entries = sorted(entries, key=lambda entry: version_key(entry.id), reverse=True)
    entries.sort(key=lambda entry: version_key(entry.version), reverse=True)
    keyed = sorted((entry for entry in entries if entry.sort_key), key=lambda one: (one.sort_key, one.machine_id))
    plain = sorted(
        (entry for entry in entries if not entry.sort_key), key=lambda one: version_key(one.id), reverse=True
    )
    return sorted([*keyed, *plain], key=lambda entry: entry.bad)

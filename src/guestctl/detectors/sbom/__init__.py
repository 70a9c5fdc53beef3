"""Software bills of materials: what a guest is made of, for the formats CycloneDX and SPDX.

The libraries of the formats are those of the extra ``sbom``; nothing else imports this package.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple, cast

import msgspec

from guestctl.core.types import GuestType
from guestctl.detectors.inspection import inspect
from guestctl.detectors.packages import packages
from guestctl.detectors.report import Guest
from guestctl.detectors.report.packages import Package
from guestctl.detectors.sbom.copyright import debian_licenses
from guestctl.detectors.sbom.languages import language_packages
from guestctl.detectors.sbom.purl import Distribution, package_url
from guestctl.detectors.system import System

# States of dpkg in which a package's files are not there.
_NOT_THERE = ("not-installed", "config-files")
_MAX_TEXT = 1024  # of a version, in CycloneDX; what is longer is no name either
_URL = re.compile(r"https?://[A-Za-z0-9][A-Za-z0-9.:-]*(/[A-Za-z0-9./_~%?=&#+-]*)?")


class Component(NamedTuple):
    """A package by its package URL, and where it was found, where no database lists it."""

    purl: str
    package: Package
    paths: list[str]


class Inventory(NamedTuple):
    """An operating system and its packages; components ascend by their package URLs, which are unique."""

    name: str
    version: str
    guest: Guest
    components: list[Component]
    created: datetime
    reproducible: bool  # as ``created`` is given, identifiers must follow from the content too


def take_inventory(system: System, *, languages: bool = True) -> Inventory:
    """What `system` is made of; `languages` also the packages of languages, for which its tree is walked."""
    report = inspect(system.machine, with_applications=False)
    guest = next(guest for guest in report.guests if guest.root == system.guest.root)
    found = [_with_licenses(system, package) for package in (*packages(system), *_programs(system))]
    if languages:
        found += language_packages(system)
    guest.product_name = _clean_text(guest.product_name) if guest.product_name else None
    distribution = Distribution(*map(_clean_text, Distribution.of(system.tree, guest)))
    components: dict[str, Component] = {}
    for package in map(clean, found):
        # rpm keeps the keys that it trusts among its packages.
        if package.name and package.status not in _NOT_THERE and package.name != "gpg-pubkey":
            purl = package_url(package, distribution)
            component = components.setdefault(purl, Component(purl, package, []))
            if package.path and package.path not in component.paths:
                component.paths.append(package.path)
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return Inventory(
        name=distribution.id,
        version=distribution.version,
        guest=guest,
        components=[components[purl] for purl in sorted(components)],
        created=datetime.fromtimestamp(int(epoch), UTC)
        if epoch.isdecimal()
        else datetime.now(UTC).replace(microsecond=0),
        reproducible=epoch.isdecimal(),
    )


def _programs(system: System) -> Iterator[Package]:
    """What Windows lists to be uninstalled."""
    if system.guest.type is GuestType.WINDOWS:
        from guestctl.detectors.windows import WindowsSystem, detect_applications

        for one in detect_applications(cast(WindowsSystem, system)):
            yield Package(
                manager="windows", name=one.display_name, version=one.version, publisher=one.publisher, url=one.url
            )


def _with_licenses(system: System, package: Package) -> Package:
    """dpkg's database says nothing of licenses, but packages have a file about them."""
    if package.manager != "dpkg":
        return package
    return msgspec.structs.replace(package, licenses=debian_licenses(system.tree, package.name))


def clean(package: Package) -> Package:
    """`package` with texts that are UTF-8, no longer than the formats have it, and a web address that is one."""
    texts = {name: value for name in package.__struct_fields__ if isinstance(value := getattr(package, name), str)}
    changed = {
        name: _clean_text(value) for name, value in texts.items() if len(value) > _MAX_TEXT or not value.isascii()
    }
    if package.url and not _URL.fullmatch(package.url):
        changed["url"] = ""
    return msgspec.structs.replace(package, **changed, licenses=[_clean_text(text) for text in package.licenses])


def _clean_text(text: str) -> str:
    return re.sub("[\ud800-\udfff]", "\ufffd", text[:_MAX_TEXT])

"""``inspect`` and ``GuestDetector``: every detector over every guest of a machine."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from guestctl.core.errors import DetectionError, GuestctlError, UnsupportedFeature
from guestctl.core.types import Firmware, GuestIdentity, GuestType
from guestctl.detectors import report
from guestctl.detectors.firmware import detect_firmware
from guestctl.detectors.packages import applications, package_system
from guestctl.detectors.report.details import Details
from guestctl.detectors.system import open_system
from guestctl.detectors.views import VIEWS, view
from guestctl.disk.filesystem import FileSystem
from guestctl.machine import Guest, Machine

# family -> the room with its ``DETECTORS``
_ROOMS = {
    GuestType.LINUX: "linux",
    GuestType.FREEBSD: "bsd",
    GuestType.NETBSD: "bsd",
    GuestType.OPENBSD: "bsd",
    GuestType.DRAGONFLY: "bsd",
}


def inspect(machine: Machine, *, with_applications: bool = True, with_details: bool = False) -> report.Report:
    """Everything that ``guestctl inspect`` shows of `machine`; `with_details` also what every view shows."""
    guests = [_inspect_guest(machine, guest, with_applications) for guest in machine.guests()]
    if with_details:
        for guest, found in zip(machine.guests(), guests, strict=True):
            found.details = _details(machine, guest)
    return report.Report(
        images=[
            report.Image(
                device=disk.name,
                path=disk.reader.path,
                format=disk.reader.format.value,
                virtual_size=disk.reader.size,
                partition_table=disk.table.type if disk.table else None,
            )
            for disk in machine.disks
        ],
        filesystems=list(_filesystems(machine)),
        guests=guests,
        warnings=machine.all_warnings(),
    )


def _filesystems(machine: Machine) -> Iterator[report.Filesystem]:
    """What each device holds, arrays with partitions included, and the subvolumes, which share their space."""
    for device, below in machine.partitioned.items():
        if machine.parents(device):
            yield report.Filesystem(device, "partitioned", None, None, below.size, None, machine.parents(device))
    for device, size, identity in machine.found():
        if identity is None:
            yield report.Filesystem(device, "unknown", None, None, size, None, machine.parents(device))
            continue
        usage = machine.usage(device) if identity.usage == "filesystem" else None
        facts = (identity.type, identity.label, identity.uuid, size)
        yield report.Filesystem(device, *facts, usage.used if usage else None, machine.parents(device))
        for name in machine.subvolumes(device) if usage else ():
            yield report.Filesystem(name, *facts, None, (device,))


def _inspect_guest(machine: Machine, guest: Guest, with_applications: bool) -> report.Guest:
    found = report.Guest(
        root=guest.root,
        type=guest.type.value,
        mountpoints=guest.mountpoints,
        filesystems=sorted(set(guest.mountpoints.values())),
        format="installer" if guest.installer else "installed",
    )
    steps = _steps(machine, guest, found, with_applications)
    steps["firmware"] = partial(_firmware, machine, found)
    for name, step in steps.items():
        try:
            step()
        except (GuestctlError, OSError) as error:
            machine.warnings.append(f"{guest.root}: {name}: {error}")
    return found


def _steps(
    machine: Machine, guest: Guest, found: report.Guest, with_applications: bool
) -> dict[str, Callable[[], None]]:
    if guest.installer:
        from guestctl.detectors.others.media import detect_medium

        return {"medium": partial(detect_medium, machine, guest, found)}
    if guest.type is GuestType.WINDOWS:
        return _windows_steps(machine, guest, found, with_applications)
    room = importlib.import_module(f"guestctl.detectors.{_ROOMS.get(guest.type, 'others')}")
    steps: dict[str, Callable[[], None]] = {
        name: partial(detect, guest.tree, found) for name, detect in room.DETECTORS.items()
    }
    steps["packages"] = partial(_packages, guest.tree, found, with_applications)
    return steps


def _windows_steps(
    machine: Machine, guest: Guest, found: report.Guest, with_applications: bool
) -> dict[str, Callable[[], None]]:
    from guestctl.detectors import windows

    system = windows.WindowsSystem(machine, guest)
    steps = {name: partial(detect, system, found) for name, detect in windows.DETECTORS.items()}

    def programs() -> None:
        if with_applications:
            found.applications = windows.detect_applications(system)
        machine.warnings.extend(f"{guest.root}: {warning}" for warning in system.warnings)

    return {**steps, "applications": programs}


def _details(machine: Machine, guest: Guest) -> Details:
    """Every view that there is for a guest of its family; one that fails is a warning."""
    system = open_system(machine, guest)
    details = Details()
    for name in VIEWS:
        try:
            setattr(details, name, view(name, system))
        except UnsupportedFeature:
            continue
        except (GuestctlError, OSError) as error:
            system.warnings.append(f"{name}: {error}")
    machine.warnings.extend(f"{guest.root}: {warning}" for warning in system.warnings)
    return details


def _packages(tree: FileSystem[Any], found: report.Guest, with_applications: bool) -> None:
    found.package_format, found.package_management = package_system(tree, found.distro)
    if with_applications:
        found.applications = applications(tree, found.package_format)


def _firmware(machine: Machine, found: report.Guest) -> None:
    found.firmware = detect_firmware(machine)


class GuestDetector:
    """The system on an image, in the few words that a migration tool needs."""

    def detect_from_image(
        self, image: str | os.PathLike[str], *more: str | os.PathLike[str], **how: Any
    ) -> GuestIdentity:
        """The first guest on the image; `more` disks and `how` are `Machine.open`'s. `DetectionError` if none."""
        with Machine.open(image, *more, **how) as machine:
            return self.detect(machine)

    def detect(self, machine: Machine) -> GuestIdentity:
        """The first guest of an open machine; `DetectionError` where there is none."""
        found = inspect(machine, with_applications=False)
        if not found.guests:
            reasons = "; ".join(found.warnings)
            raise DetectionError("no operating system found" + (f" ({reasons})" if reasons else ""))
        guest = found.guests[0]
        version = [str(part) for part in (guest.major_version, guest.minor_version) if part is not None]
        return GuestIdentity(
            os_type=GuestType(guest.type),
            os_name=guest.product_name,
            os_version=".".join(version) or None,
            architecture=guest.arch,
            firmware=Firmware(guest.firmware) if guest.firmware else None,
            init_system=guest.init_system,
            distro=guest.distro,
        )

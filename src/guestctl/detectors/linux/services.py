"""What starts the guest, and what it starts."""

from __future__ import annotations

from guestctl.core.errors import GuestctlError
from guestctl.detectors.files import Tree, list_directory
from guestctl.detectors.report import Guest
from guestctl.detectors.report.services import Service
from guestctl.detectors.system import System

_SYSTEMD = ("/lib/systemd/systemd", "/usr/lib/systemd/systemd", "/bin/systemd", "/usr/bin/systemd")
# (where /sbin/init leads, the system that it belongs to)
_INITS = (
    ("systemd", "systemd"),
    ("upstart", "upstart"),
    ("busybox", "busybox"),
    ("runit", "runit"),
    ("s6", "s6"),
    ("dinit", "dinit"),
    ("openrc", "openrc"),
    ("sysvinit", "sysvinit"),
)


def detect_services(tree: Tree, guest: Guest) -> None:
    """The init system, and the units or scripts that it is told to start."""
    guest.init_system = _init_system(tree)
    if guest.init_system == "systemd":
        guest.services = _enabled_units(tree)
    elif guest.init_system == "openrc":
        guest.services = sorted(
            {
                name
                for level in ("sysinit", "boot", "default", "nonetwork")
                for name in list_directory(tree, f"/etc/runlevels/{level}")
            }
        )


def services(system: System) -> list[Service]:
    """Units, scripts and jobs of every init system that the guest has files of, and cron's."""
    from guestctl.detectors.linux import scripts
    from guestctl.detectors.linux.cron import cron

    tree = system.tree
    found: dict[str, Service] = {}
    if _init_system(tree) == "systemd":
        from guestctl.detectors.linux.systemd import units

        found = {unit.name: unit for unit in units(system)}
    for read in (scripts.openrc, scripts.system_v, scripts.upstart, scripts.supervised):
        try:
            for service in read(system):
                # A script beside a unit of its name is not run.
                if service.name not in found and f"{service.name.removesuffix('.sh')}.service" not in found:
                    found[service.name] = service
        except (GuestctlError, OSError) as error:
            system.warnings.append(f"services: {read.__name__}: {error}")
    return [*found.values(), *cron(system)]


def _init_system(tree: Tree) -> str | None:
    # OpenRC is started by busybox or sysvinit, whose init says nothing of it.
    if tree.exists("/sbin/openrc") or tree.exists("/usr/sbin/openrc"):
        return "openrc"
    for init in ("/sbin/init", "/usr/sbin/init"):
        if tree.exists(init):
            target = tree.realpath(init)
            for word, name in _INITS:
                if word in target:
                    return name
            if tree.exists("/etc/init/rc-sysinit.conf"):
                return "upstart"
            if tree.exists("/etc/inittab"):
                return "sysvinit"
    if any(tree.is_file(path) for path in _SYSTEMD):
        return "systemd"
    return None


def _enabled_units(tree: Tree) -> list[str]:
    """Units that a target wants or requires by a link in /etc, where ``systemctl enable`` puts them."""
    units = set()
    for directory in list_directory(tree, "/etc/systemd/system"):
        if directory.endswith((".wants", ".requires")):
            units.update(list_directory(tree, f"/etc/systemd/system/{directory}"))
    return sorted(units)

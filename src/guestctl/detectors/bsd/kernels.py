"""Installed kernels of a BSD system, by the version that their files tell, and how many modules each has."""

from __future__ import annotations

from guestctl.core.errors import GuestctlError
from guestctl.core.types import GuestType
from guestctl.detectors.bsd.boot import boot, loaded_modules, loader_conf
from guestctl.detectors.bsd.kernel import NAMES, search, version_line
from guestctl.detectors.linux.reading import names_in
from guestctl.detectors.report.kernels import KernelModules, Kernels
from guestctl.detectors.system import System

_MAX_KERNELS = 16


def kernels(system: System) -> Kernels:
    """The kernels of the loader's menu that are there."""
    found = Kernels()
    paths = dict.fromkeys(entry.kernel for entry in boot(system).entries if entry.kernel)
    for path in [one for one in paths if system.tree.is_file(one)][:_MAX_KERNELS]:
        try:
            line = search(system.tree.device(path), {"": version_line(NAMES[system.guest.type])}).get("")
        except (GuestctlError, OSError) as error:
            system.warnings.append(f"{path}: {error}")
            continue
        directory = path.rpartition("/")[0]
        modules = sum(name.endswith(".ko") for name in names_in(system, directory)) if directory else None
        version = line.split()[1] if line else ""
        found.kernels.append(
            KernelModules(version=version, path=path, initramfs=None, modules=modules, built_in=None, aliases=None)
        )
    if system.guest.type in (GuestType.FREEBSD, GuestType.DRAGONFLY):
        settings = loader_conf(system)
        found.load = loaded_modules(settings)
        found.blacklist = settings.get("module_blacklist", "").split()
    return found

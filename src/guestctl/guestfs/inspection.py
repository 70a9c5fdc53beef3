"""``inspect_…``: the operating systems on the disks."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from guestctl.guestfs.calls import GuestFSError, launched
from guestctl.guestfs.handle import Handle

if TYPE_CHECKING:
    from guestctl.detectors import report

_SPARES = dict.fromkeys(("app2_spare1", "app2_spare2", "app2_spare3", "app2_spare4"), "")
_NEWER = ("app2_arch", *_SPARES)


class Inspection(Handle):
    """Each call but `inspect_os` takes a root that `inspect_os` gave."""

    _found: dict[str, report.Guest] | None = None

    def _end_groups(self) -> None:
        super()._end_groups()
        self._found = None

    @launched
    def inspect_os(self) -> list[str]:
        """Look for operating systems. Gives the device or subvolume of the root filesystem of each."""
        self._mounts.clear()
        self._tree_or_none = None
        self._inspect(with_applications=False)
        return self.inspect_get_roots()

    def _inspect(self, *, with_applications: bool) -> None:
        from guestctl.detectors.inspection import inspect

        found = inspect(self._machine, with_applications=with_applications)
        self._found = {guest.root: guest for guest in found.guests}

    @launched
    def inspect_get_roots(self) -> list[str]:
        """What `inspect_os` gave."""
        return list(self._found or ())

    def _guest(self, root: str) -> report.Guest:
        if self._found is None:
            raise GuestFSError("no inspection data: call inspect_os first", errno.EINVAL)
        guest = self._found.get(self._mountable(root))
        if guest is None:
            message = "root device not found: only call this function with a root device previously returned by"
            raise GuestFSError(f"{root}: {message} inspect_os", errno.EINVAL)
        return guest

    @launched
    def inspect_get_type(self, root: str) -> str:
        """``linux``, ``windows``, ``freebsd`` and so on."""
        return _known(self._guest(root).type)

    @launched
    def inspect_get_distro(self, root: str) -> str:
        """``debian``, ``fedora``, ``windows`` and so on."""
        return _known(self._guest(root).distro)

    @launched
    def inspect_get_arch(self, root: str) -> str:
        """``x86_64``, ``aarch64`` and so on."""
        return _known(self._guest(root).arch)

    @launched
    def inspect_get_product_name(self, root: str) -> str:
        """The name of the system as it gives it."""
        from guestctl.detectors.virt_inspector import product_name

        return _known(product_name(self._guest(root)))

    @launched
    def inspect_get_product_variant(self, root: str) -> str:
        """The variant, such as ``Server`` or ``Client`` of Windows."""
        return _known(self._guest(root).product_variant)

    @launched
    def inspect_get_hostname(self, root: str) -> str:
        """The host name."""
        return _known(self._guest(root).hostname)

    @launched
    def inspect_get_package_format(self, root: str) -> str:
        """``rpm``, ``deb`` and so on."""
        return _known(self._guest(root).package_format)

    @launched
    def inspect_get_package_management(self, root: str) -> str:
        """``dnf``, ``apt`` and so on."""
        return _known(self._guest(root).package_management)

    @launched
    def inspect_get_osinfo(self, root: str) -> str:
        """The short identifier of libosinfo."""
        return _known(self._guest(root).osinfo)

    @launched
    def inspect_get_format(self, root: str) -> str:
        """``installed`` or ``installer``."""
        return _known(self._guest(root).format)

    @launched
    def inspect_get_major_version(self, root: str) -> int:
        """The major version; 0 where it is unknown."""
        return self._guest(root).major_version or 0

    @launched
    def inspect_get_minor_version(self, root: str) -> int:
        """The minor version; 0 where it is unknown."""
        return self._guest(root).minor_version or 0

    @launched
    def inspect_get_mountpoints(self, root: str) -> Any:
        """Mount point -> device or subvolume."""
        return self._hash(self._guest(root).mountpoints)

    @launched
    def inspect_get_filesystems(self, root: str) -> list[str]:
        """The devices and subvolumes that the system mounts."""
        return list(self._guest(root).filesystems)

    @launched
    def inspect_get_drive_mappings(self, root: str) -> Any:
        """Drive letter of Windows -> device."""
        return self._hash(self._guest(root).drive_mappings)

    @launched
    def inspect_is_live(self, root: str) -> bool:
        """Whether an installation medium is a live one. Newer versions of libguestfs always say no."""
        self._guest(root)
        return False

    inspect_is_multipart = inspect_is_netinst = inspect_is_live

    @launched
    def inspect_get_icon(self, root: str, favicon: bool | None = None, highquality: bool | None = None) -> bytes:
        """Nothing: icons are not looked for."""
        self._guest(root)
        return b""

    # Windows

    def _windows(self, root: str) -> report.Guest:
        guest = self._guest(root)
        if guest.windows_systemroot is None:
            raise GuestFSError("not a Windows guest, or systemroot could not be determined", errno.EINVAL)
        return guest

    @launched
    def inspect_get_windows_systemroot(self, root: str) -> str:
        """The directory of Windows, such as ``/Windows``."""
        return str(self._windows(root).windows_systemroot)

    @launched
    def inspect_get_windows_current_control_set(self, root: str) -> str:
        """The control set that is current, such as ``ControlSet001``."""
        name = self._windows(root).windows_current_control_set
        if name is None:
            raise GuestFSError("not a Windows guest, or CurrentControlSet could not be determined", errno.EINVAL)
        return name

    @launched
    def inspect_get_windows_software_hive(self, root: str) -> str:
        """The path of the SOFTWARE hive."""
        return self._hive_path(root, "software")

    @launched
    def inspect_get_windows_system_hive(self, root: str) -> str:
        """The path of the SYSTEM hive."""
        return self._hive_path(root, "system")

    def _hive_path(self, root: str, name: str) -> str:
        path = f"{self._windows(root).windows_systemroot}/system32/config/{name}"
        guest = next(one for one in self._machine.guests() if one.root == self._mountable(root))
        if not guest.tree.is_file(path):
            raise GuestFSError(f"not a Windows guest, or the {name} hive could not be found", errno.EINVAL)
        return path

    # Applications

    @launched
    def inspect_list_applications(self, root: str) -> list[dict[str, Any]]:
        """The installed packages, in dicts with keys ``app_name`` and so on."""
        return [
            {key.replace("app2", "app"): value for key, value in app.items() if key not in _NEWER}
            for app in self.inspect_list_applications2(root)
        ]

    @launched
    def inspect_list_applications2(self, root: str) -> list[dict[str, Any]]:
        """The installed packages, in dicts with keys ``app2_name`` and so on. Those of the root need not be mounted."""
        from guestctl.detectors.virt_inspector import application

        if self._guest(root).applications is None:
            self._inspect(with_applications=True)
        guest = self._guest(root)
        return [
            {
                "app2_name": app.name,
                "app2_display_name": app.display_name,
                "app2_epoch": app.epoch,
                "app2_version": app.version,
                "app2_release": app.release,
                "app2_arch": app.arch,
                "app2_install_path": app.install_path,
                "app2_trans_path": "",
                "app2_publisher": app.publisher,
                "app2_url": app.url,
                "app2_source_package": app.source,
                "app2_summary": app.summary,
                "app2_description": app.description,
                **_SPARES,
            }
            for app in (application(found, guest.package_format) for found in guest.applications or ())
        ]


def _known(value: str | None) -> str:
    return "unknown" if value is None else value

"""A guest's tree: its root, and what its own tables, or the conventions of its system, mount on it.

``/usr`` that no fstab names is found by its partition type: those of the Discoverable Partitions Specification, and
Container Linux's, of which the one with the highest priority boots (the attribute bits of Chromium OS's disk format).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from guestctl.core.errors import GuestctlError
from guestctl.core.types import GuestType
from guestctl.disk.filesystem import FileSystem
from guestctl.machine.fstab import FstabEntry, parse_crypttab, parse_fstab
from guestctl.machine.roots import Root
from guestctl.machine.tree import MountTree

if TYPE_CHECKING:
    from guestctl.machine.machine import Machine

_MAX_TABLE_BYTES = 1 << 20
# Each line may mount the whole root once more, and a walk visits every mount.
_MAX_FSTAB_ENTRIES = 1000
_NO_TABLE = (
    GuestType.WINDOWS,
    GuestType.DOS,
    GuestType.MINIX,
    GuestType.SOLARIS,
    GuestType.MACOS,
    GuestType.HAIKU,
)
_BSD = (GuestType.FREEBSD, GuestType.NETBSD, GuestType.OPENBSD, GuestType.DRAGONFLY)

_CONTAINER_LINUX_USR = "5dfbf5f4-2848-4bac-aa5e-0d9a20b745a6"
_USR_TYPES = (
    _CONTAINER_LINUX_USR,
    "8484680c-9521-48c6-9c11-b0720656f69e",  # x86-64
    "75250d76-8cc6-458e-bd66-bd47cc81a812",  # x86
    "b0e01050-ee5f-4390-949a-9101b17104e9",  # 64-bit ARM
    "7d0359a3-02b3-4f0a-865c-654403e70625",  # 32-bit ARM
    "beaec34b-8442-439b-a40b-984381ed097d",  # 64-bit RISC-V
)
_PRIORITY_SHIFT, _PRIORITY_MASK = 48, 15


class Assembly:
    """What is mounted where in the guest whose root is on the device `name`."""

    def __init__(self, machine: Machine, name: str, root: Root) -> None:
        self._machine = machine
        self._name = name
        self._root = root
        self.mountpoints = {"/": name}
        self._top = machine.filesystem(name)
        self._tree: MountTree | None = None
        if root.path != "/":
            self._deploy()
        if root.type not in _NO_TABLE and not root.installer:
            self._mount_table()
        if root.type is GuestType.LINUX and not root.installer:
            self._mount_usr()
            self._mount_boot()

    @property
    def tree(self) -> FileSystem[Any]:
        return self._tree or self._top

    def _deploy(self) -> None:
        """As ostree-prepare-root(1) does: the deployment is the root, and in it are the whole and what varies."""
        self._tree = MountTree(self._top, self._root.path)
        self._bind("/sysroot", "/")
        self._bind("/var", self._root.path.rpartition("/deploy/")[0] + "/var")

    def _mount_boot(self) -> None:
        """Where no table says it: the boot files of OSTree, beside the deployments or on the device that boots."""
        if self._root.path == "/" or "/boot" in self.mountpoints:
            return
        if self._root.boot is None:
            self._bind("/boot", "/boot")
        elif self._try_mount("/boot", self._root.boot, self._machine.filesystem(self._root.boot)):
            self.mountpoints["/boot"] = self._root.boot

    def _bind(self, path: str, source: str) -> None:
        if self._top.is_dir(source) and self.tree.is_dir(path):
            self._try_mount(path, self._name, self._top, source)

    def _mount_table(self) -> None:
        unlocked = self._unlocked()
        for entry in self._fstab():
            device = unlocked.get(entry.spec) or self._find(entry.spec)
            if device is None or entry.mountpoint == "/":
                continue
            device = self._mounted_subvolume(device, entry.options)
            mounted = self._machine.try_filesystem(device)
            if mounted is not None and self._try_mount(entry.mountpoint, device, mounted):
                self.mountpoints[entry.mountpoint] = device

    def _mount_usr(self) -> None:
        if "/usr" in self.mountpoints or not self.tree.is_symlink("/bin") or self.tree.is_dir("/usr/bin"):
            return
        for device in sorted(self._usr_partitions(), key=self._priority, reverse=True):
            mounted = self._machine.try_filesystem(device)
            if mounted is not None and self._try_mount("/usr", device, mounted):
                self.mountpoints["/usr"] = device
                return

    def _usr_partitions(self) -> Iterator[str]:
        for device in self._machine.devices:
            partition = self._machine.partition(device)
            if partition is not None and partition.type.lower() in _USR_TYPES:
                yield device

    def _priority(self, device: str) -> int:
        partition = self._machine.partition(device)
        if partition is None or partition.type.lower() != _CONTAINER_LINUX_USR:
            return 0
        return partition.attributes >> _PRIORITY_SHIFT & _PRIORITY_MASK

    def _try_mount(self, path: str, device: str, filesystem: FileSystem[Any], source: str = "/") -> bool:
        self._tree = self._tree or MountTree(self._top)
        try:
            self._tree.mount(path, filesystem, source)
        except (OSError, GuestctlError) as error:
            self._warn(f"cannot mount {device} on {path}: {error}")
            return False
        return True

    def _find(self, spec: str) -> str | None:
        if self._root.type in _BSD:
            from guestctl.machine.bsd_devices import find_bsd_device

            return find_bsd_device(self._machine, spec)
        return self._machine.find_device(spec)

    def _mounted_subvolume(self, device: str, options: Sequence[str]) -> str:
        """What the mount options ``subvol=`` and ``subvolid=`` choose on `device`."""
        values = dict(option.partition("=")[::2] for option in options)
        path, number = values.get("subvol", "").strip("/"), values.get("subvolid")
        if path or number:
            for name, one in self._machine.subvolumes(device).items():
                if one.path == path or (not path and str(one.id) == number):
                    return name
        return device

    def _unlocked(self) -> dict[str, str]:
        """The names that ``/etc/crypttab`` gives to unlocked volumes."""
        names = {}
        machine = self._machine
        for name, spec in parse_crypttab(self._table("/etc/crypttab")):
            device = machine.find_device(spec)
            volume = next((one for one in machine.devices if device and machine.parents(one) == (device,)), None)
            if volume is not None:
                names[f"/dev/mapper/{name}"] = volume
        return names

    def _fstab(self) -> list[FstabEntry]:
        entries = list(islice(parse_fstab(self._table("/etc/fstab")), _MAX_FSTAB_ENTRIES + 1))
        if len(entries) > _MAX_FSTAB_ENTRIES:
            self._warn(f"/etc/fstab: only the first {_MAX_FSTAB_ENTRIES} entries are mounted")
            del entries[_MAX_FSTAB_ENTRIES:]
        # Parents before children, whatever order the file has them in.
        return sorted(entries, key=lambda entry: entry.mountpoint.count("/") if entry.mountpoint != "/" else 0)

    def _table(self, path: str) -> str:
        try:
            return self.tree.read_text(path, limit=_MAX_TABLE_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except (OSError, GuestctlError) as error:
            self._warn(f"{path}: {error}")
            return ""

    def _warn(self, message: str) -> None:
        self._machine.warnings.append(f"{self._name}: {message}")

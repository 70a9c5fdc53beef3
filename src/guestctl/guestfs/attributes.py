"""Extended attributes, POSIX ACLs, capabilities and the flags of ext files.

ACLs are shown in acl(5)'s long text form with numbers for users and groups, capabilities in cap_to_text(3)'s.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from collections.abc import Sequence
from typing import Any

from guestctl.core.errors import InvalidFormat
from guestctl.disk.stat import FileStat
from guestctl.guestfs.calls import GuestFSError, launched
from guestctl.guestfs.paths import Paths

# include/uapi/linux/posix_acl_xattr.h
_ACL_HEADER = struct.Struct("<I")  # a_version
_ACL_ENTRY = struct.Struct("<HHI")  # e_tag, e_perm, e_id
_ACL_VERSION = 2
_ACL_TAGS = {0x01: "user:", 0x02: "user:", 0x04: "group:", 0x08: "group:", 0x10: "mask:", 0x20: "other:"}
_ACL_NAMED = (0x02, 0x08)
_ACL_MASKED = (0x02, 0x04, 0x08)
_ACL_MASK = 0x10

# include/uapi/linux/capability.h: magic_etc, then pairs of permitted and inheritable
_CAP_SIZES = {0x01000000: (1, 12), 0x02000000: (2, 20), 0x03000000: (2, 24)}  # pairs, bytes in all
_CAP_REVISION, _CAP_EFFECTIVE = 0xFF000000, 0x000001
_CAP_NAMES = re.findall(
    r"\w+",
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service "
    "net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct sys_admin "
    "sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap mac_override "
    "mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore",
)

_WITHOUT_XATTRS = ("exfat", "iso9660", "udf", "vfat")
# chattr(1)'s letters of i_flags that the kernel shows (EXT4_FL_USER_VISIBLE).
_EXT_FLAGS = {
    0x1: "s", 0x2: "u", 0x4: "c", 0x8: "S", 0x10: "i", 0x20: "a", 0x40: "d", 0x80: "A", 0x800: "E", 0x1000: "I",
    0x4000: "j", 0x8000: "t", 0x10000: "D", 0x20000: "T", 0x80000: "e", 0x100000: "V", 0x2000000: "x",
    0x10000000: "N", 0x20000000: "P", 0x40000000: "F",
}  # fmt: skip


class Attributes(Paths):
    """``getxattrs``, ``acl_get_file``, ``cap_get_file``, ``get_e2attrs`` and the like."""

    @launched
    def getxattr(self, path: str, name: str) -> bytes:
        """The value of one extended attribute."""
        return self._getxattr(path, name, follow=True)

    @launched
    def lgetxattr(self, path: str, name: str) -> bytes:
        """`getxattr` of a symbolic link itself."""
        return self._getxattr(path, name, follow=False)

    def _getxattr(self, path: str, name: str, *, follow: bool) -> bytes:
        attributes = self._tree.xattrs(self._path(path), follow=follow)
        if name in attributes:
            return attributes[name]
        number = errno.ENODATA if name.startswith(("user.", "trusted.", "security.", "system.")) else errno.ENOTSUP
        raise OSError(number, os.strerror(number), path)

    @launched
    def getxattrs(self, path: str) -> list[dict[str, Any]]:
        """All extended attributes: ``attrname`` and ``attrval`` of each, by name."""
        return _listed(self._tree.xattrs(self._path(path)))

    @launched
    def lgetxattrs(self, path: str) -> list[dict[str, Any]]:
        """`getxattrs` of a symbolic link itself."""
        return _listed(self._tree.xattrs(self._path(path), follow=False))

    @launched
    def lxattrlist(self, path: str, names: Sequence[str]) -> list[dict[str, Any]]:
        """`lgetxattrs` of each of `names` in the directory `path`, in one list.

        Before those of a name is one without a name, whose value is their number as a C string; empty where the name
        is not there.
        """
        base = self._names_in(path, names)
        found: list[dict[str, Any]] = []
        for name in names:
            try:
                attributes = _listed(self._tree.xattrs(base + name, follow=False))
            except OSError:
                found.append({"attrname": "", "attrval": b""})
            else:
                found += [{"attrname": "", "attrval": b"%d\0" % len(attributes)}, *attributes]
        return found

    @launched
    def acl_get_file(self, path: str, acltype: str) -> str:
        """The POSIX ACL of `path`: ``access``, or a directory's ``default`` one (empty where there is none)."""
        if acltype not in ("access", "default"):
            raise GuestFSError(f"invalid acltype parameter: {acltype}", errno.EINVAL)
        status = self._status(path)
        self._check_has_xattrs(path)
        value = self._tree.xattrs(path).get(f"system.posix_acl_{acltype}")
        if value is not None:
            return _acl_text(value)
        if acltype == "access":
            return _mode_as_acl(status)
        if not status.is_dir():
            raise OSError(errno.EACCES, os.strerror(errno.EACCES), path)
        return ""

    @launched
    def cap_get_file(self, path: str) -> str:
        """The capabilities of a file; empty where it has none."""
        self._check_has_xattrs(self._path(path))
        value = self._tree.xattrs(path).get("security.capability")
        return "" if value is None else _capabilities_text(value)

    def _check_has_xattrs(self, path: str) -> None:
        if self._mounted_at(path)[2].type in _WITHOUT_XATTRS:
            raise OSError(errno.ENOTSUP, "Operation not supported", path)

    @launched
    def get_e2attrs(self, file: str) -> str:
        """The flags of a file of ext2, ext3 or ext4, as chattr(1)'s letters."""
        flags: int = self._ext_status(file).flags
        return "".join(sorted(letter for flag, letter in _EXT_FLAGS.items() if flags & flag))

    @launched
    def get_e2generation(self, file: str) -> int:
        """The generation of a file of ext2, ext3 or ext4."""
        generation: int = self._ext_status(file).generation
        return generation

    def _ext_status(self, path: str) -> Any:
        status: Any = self._status(path, follow=False)
        if not (status.is_file() or status.is_dir()) or not self._mounted_at(path)[2].type.startswith("ext"):
            raise OSError(errno.ENOTSUP, "Operation not supported", path)
        return status


def _listed(attributes: dict[str, bytes]) -> list[dict[str, Any]]:
    return [{"attrname": name, "attrval": value} for name, value in sorted(attributes.items())]


def _acl_text(value: bytes) -> str:
    if len(value) % _ACL_ENTRY.size != _ACL_HEADER.size or _ACL_HEADER.unpack_from(value)[0] != _ACL_VERSION:
        raise InvalidFormat("of no version that is known", structure="POSIX ACL", offset=0)
    entries = list(_ACL_ENTRY.iter_unpack(value[_ACL_HEADER.size :]))
    mask = next((permissions for tag, permissions, _ in entries if tag == _ACL_MASK), 7)
    lines = []
    for tag, permissions, owner in entries:
        if tag not in _ACL_TAGS:
            raise InvalidFormat(f"a tag {tag:#x}", structure="POSIX ACL", offset=0)
        who = str(owner) if tag in _ACL_NAMED else ""
        line = f"{_ACL_TAGS[tag]}{who}:{_rwx(permissions)}"
        if tag in _ACL_MASKED and permissions & ~mask & 7:
            line += f"\t#effective:{_rwx(permissions & mask)}"
        lines.append(line + "\n")
    return "".join(lines)


def _rwx(permissions: int) -> str:
    return "".join(letter if permissions & bit else "-" for letter, bit in (("r", 4), ("w", 2), ("x", 1)))


def _mode_as_acl(status: FileStat) -> str:
    mode = stat.S_IMODE(status.st_mode)
    return f"user::{_rwx(mode >> 6)}\ngroup::{_rwx(mode >> 3)}\nother::{_rwx(mode)}\n"


def _capabilities_text(value: bytes) -> str:
    """The sets that most capabilities are in, then, for each combination of others, who differs and how."""
    sets = _capability_sets(value)
    base = max(range(8), key=lambda one: (sets.count(one), -one))
    words = [f"={_letters(base)}"] if base else []
    for one in range(7, -1, -1):
        names = [_cap_name(number) for number, held in enumerate(sets) if held == one]
        if not names or one == base:
            continue
        change = f"+{_letters(one & ~base)}" if one & ~base else ""
        if not words:
            change = f"={_letters(one)}"
        if base & ~one:
            change += f"-{_letters(base & ~one)}"
        words.append(",".join(names) + change)
    return " ".join(words) or "="


def _capability_sets(value: bytes) -> list[int]:
    """Of each capability the sets that it is in: 1 effective, 2 permitted, 4 inheritable."""
    (magic,) = struct.unpack_from("<I", value) if len(value) >= 4 else (0,)
    pairs, size = _CAP_SIZES.get(magic & _CAP_REVISION, (0, -1))
    if len(value) != size:
        raise InvalidFormat("of no version that is known", structure="vfs_cap_data", offset=0)
    words = struct.unpack_from(f"<{2 * pairs}I", value, 4)
    permitted = sum(word << 32 * index for index, word in enumerate(words[::2]))
    inheritable = sum(word << 32 * index for index, word in enumerate(words[1::2]))
    effective = permitted | inheritable if magic & _CAP_EFFECTIVE else 0
    count = max(len(_CAP_NAMES), (permitted | inheritable).bit_length())
    return [
        (effective >> number & 1) | (permitted >> number & 1) << 1 | (inheritable >> number & 1) << 2
        for number in range(count)
    ]


def _cap_name(number: int) -> str:
    return f"cap_{_CAP_NAMES[number]}" if number < len(_CAP_NAMES) else str(number)


def _letters(sets: int) -> str:
    return "".join(letter for letter, bit in (("e", 1), ("i", 4), ("p", 2)) if sets & bit)

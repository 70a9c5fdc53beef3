"""What files are, and what sums up to: file(1)'s words, architectures, checksums, initial ramfs images."""

from __future__ import annotations

import bz2
import errno
import hashlib
import lzma
import os
import stat
import struct
import tempfile
import zlib
from collections.abc import Iterator
from typing import Any

from guestctl.block import BlockDevice
from guestctl.core.errors import GuestctlError
from guestctl.guestfs.calls import GuestFSError, launched
from guestctl.guestfs.paths import Paths, write_all

_KIND_WORDS = {
    stat.S_IFDIR: "directory",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "FIFO",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFSOCK: "socket",
}
_MAGIC_BYTES = 1 << 20  # libmagic looks no further
_MAX_PROGRAM_BYTES = 256 << 20  # that is copied for libmagic
_HEAD_BYTES = 4096
_MODULE_BYTES = 256 << 10  # compressed, what a compressor may keep back before it gives the first bytes

# PE Format, "Machine Types"
_PE_MACHINES = {0x14C: "i386", 0x1C0: "arm", 0x1C4: "arm", 0x200: "ia64", 0x8664: "x86_64", 0xAA64: "aarch64"}
_PE_OFFSET = struct.Struct("<I")  # e_lfanew, at 0x3c of the DOS header
_PE_HEADER = struct.Struct("<4sH")

_SUMS = ("crc", "md5", "sha1", "sha224", "sha256", "sha384", "sha512")
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
_ESCAPES = str.maketrans({"\\": "\\\\", "\n": "\\n", "\r": "\\r"})  # of names, in the lists of coreutils
# In an initial ramfs image, what the architecture is read from.
_PROGRAM_DIRECTORIES = ("bin/", "sbin/", "usr/bin/", "usr/sbin/")


class Contents(Paths):
    """``file``, ``file_architecture``, ``checksum``, ``initrd_list`` and the like."""

    @launched
    def file(self, path: str) -> str:
        """What file(1) says of a file or device, with the package python-magic and libmagic."""
        if path.startswith("/dev/"):
            return _magic(self._device(path))
        mode = self._status(path, follow=False).st_mode
        return _magic(self._content(path)) if stat.S_ISREG(mode) else _KIND_WORDS[stat.S_IFMT(mode)]

    @launched
    def zfile(self, meth: str, path: str) -> str:
        """What file(1) says of what gzip (or ``compress``) or bzip2 made smaller."""
        decoders: dict[str, Any] = {"gzip": _gzip, "compress": _gzip, "bzip2": bz2.BZ2Decompressor}
        if meth not in decoders:
            raise GuestFSError("unknown method", errno.EINVAL)
        device = self._content(path)
        return _describe(_beginning(decoders[meth](), bytes(device.read(0, min(device.size, _MAGIC_BYTES)))))

    @launched
    def file_architecture(self, filename: str) -> str:
        """For which processors a program, library, kernel module or initial ramfs image is, as `inspect_get_arch` says.

        Files that gzip or xz made smaller are looked into. Windows programs for ARM are told apart.
        """
        status = self._status(filename, follow=False)
        found = _architecture(self._tree.device(filename)) if status.is_file() else None
        if found is None:
            raise GuestFSError(f"unknown architecture: {filename}", errno.EINVAL)
        return found

    # Checksums

    @launched
    def checksum(self, csumtype: str, path: str) -> str:
        """The checksum of a file: ``crc`` (that of POSIX cksum), ``md5``, ``sha1``, ``sha224``… ``sha512``."""
        return _sum(csumtype, self._content(path))

    @launched
    def checksum_device(self, csumtype: str, device: str) -> str:
        """`checksum` of a device."""
        return _sum(csumtype, self._device(device))

    @launched
    def checksums_out(self, csumtype: str, directory: str, sumsfile: str) -> None:
        """Write the checksums of all regular files below `directory` to the host's file `sumsfile`, as coreutils do."""
        top = self._path(directory)
        kind = _checked(csumtype)
        if not self._status(top).is_dir():
            raise OSError(errno.ENOTDIR, "not a directory", top)
        skip = len(self._tree.realpath(top).rstrip("/"))
        with self._host_file(sumsfile) as stream:
            for path, node, status in self._tree.find(self._tree.realpath(top)):
                if status.is_file():
                    line = _sum_line(kind, self._tree.node_data(node), "." + path[skip:])
                    write_all(stream, line.encode("utf-8", "surrogateescape"))

    # Initial ramfs images

    @launched
    def initrd_list(self, path: str) -> list[str]:
        """The names in an initial ramfs image, in its order."""
        from guestctl.guestfs.initrds import file_name, read_files

        return [file_name(entry.name) for entry, _ in read_files(self._content(path), lambda name: False)]

    @launched
    def initrd_cat(self, initrdpath: str, filename: str) -> bytes:
        """The bytes of a file in an initial ramfs image, by its name without a slash before it."""
        from guestctl.guestfs.initrds import file_name, read_files

        found = None
        for entry, data in read_files(self._content(initrdpath), lambda name: name == filename):
            if file_name(entry.name) == filename and (stat.S_ISREG(entry.mode) or not found):
                found = entry, data  # of hard links, the last has the data; of archives, the last holds
        where = f"{initrdpath}:{filename}"
        if found is None or stat.S_ISLNK(found[0].mode):
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), where)
        if stat.S_ISDIR(found[0].mode):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), where)
        return found[1]


def _magic(device: BlockDevice) -> str:
    head = bytes(device.read(0, min(device.size, _MAGIC_BYTES)))
    if not head.startswith(b"\x7fELF") or device.size > _MAX_PROGRAM_BYTES:
        return _describe(head)
    with tempfile.NamedTemporaryFile(prefix="guestctl-") as file:  # libmagic looks for sections in files alone
        for buffer in device.buffers(0, device.size):
            file.write(buffer)
        file.flush()
        words: str = _libmagic().from_file(file.name)
    return words


def _describe(content: bytes) -> str:
    words: str = _libmagic().from_buffer(content)
    return words


def _libmagic() -> Any:
    try:
        import magic
    except ImportError as error:
        raise NotImplementedError("file: needs the Python package python-magic, and libmagic") from error
    return magic.Magic(uncompress=True)


def _gzip() -> Any:
    return zlib.decompressobj(wbits=31)


def _beginning(decoder: Any, content: bytes) -> bytes:
    """The first bytes of what was made smaller; none where it was not."""
    try:
        return bytes(decoder.decompress(content, _MAGIC_BYTES))
    except (zlib.error, lzma.LZMAError, OSError, EOFError):
        return b""


# Architectures


def _architecture(device: BlockDevice) -> str | None:
    head = bytes(device.read(0, min(device.size, _HEAD_BYTES)))
    found = _program_architecture(head)
    if found is None and head:
        found = _module_architecture(device, head)
    return _initrd_architecture(device) if found is None and _may_be_initrd(head) else found


def _program_architecture(head: bytes) -> str | None:
    if not head.startswith(b"MZ") or len(head) < 0x40:
        from guestctl.detectors.linux.architecture import elf_architecture

        return elf_architecture(head[:20])
    (offset,) = _PE_OFFSET.unpack_from(head, 0x3C)
    if offset + _PE_HEADER.size > len(head):
        return None
    signature, machine = _PE_HEADER.unpack_from(head, offset)
    return _PE_MACHINES.get(machine) if signature == b"PE\0\0" else None


def _module_architecture(device: BlockDevice, head: bytes) -> str | None:
    """Of a program or kernel module that was made smaller."""
    content = bytes(device.read(0, min(device.size, _MODULE_BYTES)))
    if head.startswith(b"\x1f\x8b"):
        return _program_architecture(_beginning(_gzip(), content)[:_HEAD_BYTES])
    if head.startswith(b"\xfd7zXZ\0"):
        return _program_architecture(_beginning(lzma.LZMADecompressor(memlimit=128 << 20), content)[:_HEAD_BYTES])
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        import zstandard

        try:
            with zstandard.ZstdDecompressor(max_window_size=128 << 20).stream_reader(content) as reader:
                return _program_architecture(reader.read(_HEAD_BYTES))
        except zstandard.ZstdError:
            return None
    return None


def _may_be_initrd(head: bytes) -> bool:
    try:
        from guestctl.detectors.linux.initramfs.compression import decoder
        from guestctl.detectors.linux.initramfs.cpio import is_cpio

        return is_cpio(head) or decoder(head[:10], 0) is not None
    except GuestctlError:
        return False


def _initrd_architecture(device: BlockDevice) -> str | None:
    """Of the first program or kernel module in an initial ramfs image."""
    from guestctl.guestfs.initrds import read_files

    for _, data in read_files(device, lambda name: name.startswith(_PROGRAM_DIRECTORIES) or name.endswith(".ko")):
        found = _program_architecture(data[:_HEAD_BYTES])
        if found:
            return found
    return None


# Sums


def _checked(kind: str) -> str:
    if kind.lower() not in _SUMS:
        raise GuestFSError(f"unknown checksum type, expecting {'|'.join(_SUMS)}", errno.EINVAL)
    return kind.lower()


def _sum(kind: str, device: BlockDevice) -> str:
    kind = _checked(kind)
    if kind == "crc":
        return str(_cksum(device.buffers(0, device.size), device.size))
    digest = hashlib.new(kind, usedforsecurity=False)
    for buffer in device.buffers(0, device.size):
        digest.update(buffer)
    return digest.hexdigest()


def _cksum(buffers: Iterator[Any], size: int) -> int:
    """POSIX's CRC: its bits come in the other order than zlib's, so all are turned round; the length comes last."""
    crc = 0xFFFFFFFF  # a register of zeros, as zlib counts
    for buffer in buffers:
        crc = zlib.crc32(bytes(buffer).translate(_REVERSED_BITS), crc)
    length = size.to_bytes((size.bit_length() + 7) // 8, "little")
    crc = zlib.crc32(length.translate(_REVERSED_BITS), crc)
    return int(f"{crc:032b}"[::-1], 2)


def _sum_line(kind: str, device: BlockDevice, name: str) -> str:
    value = _sum(kind, device)
    if kind == "crc":
        return f"{value} {device.size} {name}\n"
    escaped = name.translate(_ESCAPES)
    return f"{chr(92) if escaped != name else ''}{value}  {escaped}\n"

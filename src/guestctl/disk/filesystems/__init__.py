"""One room per filesystem, and the table that finds them."""

from __future__ import annotations

from typing import NamedTuple


class Probe(NamedTuple):
    """Content of a device that is told by a magic number.

    ``type`` and ``usage`` are blkid's words. Where ``module`` is set, that room (of this folder, or with a
    dot of one beside it) is imported and its ``identify(device)`` gives an `Identity`, or None where the
    magic was an accident; its ``open_filesystem(device, options)``, if the room has one, gives the `FileSystem`.
    """

    type: str
    magics: tuple[tuple[int, bytes], ...]  # (offset in bytes, magic); any one will do
    module: str | None = None
    usage: str = "filesystem"
    # (bytes before the end, what the end is rounded down to, magic)
    end_magics: tuple[tuple[int, int, bytes], ...] = ()


PROBES = (
    # Before what its members hold from their offset 0 on.
    Probe(
        "linux_raid_member",
        ((0, b"\xfc\x4e\x2b\xa9"), (4096, b"\xfc\x4e\x2b\xa9")),
        "volumes.md",
        "raid",
        tuple((65536, 65536, magic) for magic in (b"\xfc\x4e\x2b\xa9", b"\xa9\x2b\x4e\xfc"))
        + ((8192, 4096, b"\xfc\x4e\x2b\xa9"),),
    ),
    # Before FAT, which the first sectors of BitLocker To Go are as well.
    Probe(
        "BitLocker",
        ((3, b"-FVE-FS-"), (424, b"\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01")),
        "volumes.bitlocker",
        "crypto",
    ),
    Probe("ext", ((0x438, b"\x53\xef"),), "ext4"),
    Probe("vfat", ((510, b"\x55\xaa"), (82, b"FAT32   "), (82, b"MSWIN"), (54, b"FAT"), (54, b"MSDOS")), "fat"),
    Probe("xfs", ((0, b"XFSB"),), "xfs"),
    Probe("btrfs", ((0x10040, b"_BHRfS_M"),), "btrfs"),
    Probe("ntfs", ((3, b"NTFS    "),), "ntfs"),
    Probe("exfat", ((3, b"EXFAT   "),), "exfat"),
    Probe("squashfs", ((0, b"hsqs"), (0, b"sqsh")), "squashfs"),
    Probe("iso9660", ((0x8001, b"CD001"), (0x8009, b"CDROM")), "iso9660"),
    Probe("erofs", ((0x400, b"\xe2\xe1\xf5\xe0"),)),
    Probe(
        "ufs",
        tuple(
            (offset + 1372, magic)
            for offset in (8192, 65536, 0, 262144)
            for magic in (b"\x54\x19\x01\0", b"\0\x01\x19\x54", b"\x19\x01\x54\x19", b"\x19\x54\x01\x19")
        ),
        "ufs",
    ),
    Probe("swap", ((4086, b"SWAPSPACE2"), (65526, b"SWAPSPACE2")), usage="other"),
    Probe(
        "crypto_LUKS",
        ((0, b"LUKS\xba\xbe"), *((0x4000 << power, b"SKUL\xba\xbe") for power in range(9))),
        "volumes.luks",
        "crypto",
    ),
    Probe("LVM2_member", tuple((sector * 512, b"LABELONE") for sector in range(4)), "volumes.lvm2", "raid"),
)

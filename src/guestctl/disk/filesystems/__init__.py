"""One room per filesystem, and the table that finds them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from guestctl.block import BlockDevice
    from guestctl.block.device import Buffer

_BLOCK_BYTES, _LONGEST_MAGIC = 4096, 32


class Fields(NamedTuple):
    """Where the identity of what is not read stands; offsets count from the magic.

    A ``uuid`` is 16 bytes; a pair is the offset and length of text.
    """

    uuid: int | tuple[int, int] | None = None
    label: tuple[int, int] | None = None
    version: str | tuple[int, int] | None = None


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
    fields: Fields | None = None  # where there is no module
    identify: str = "identify"  # the function of ``module``, where that is for several types


_PAGE_SIZES = (4096, 8192, 16384, 32768, 65536)  # swap's magic ends its first page
_SUSPENDED = (b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001")
_MD = b"\xfc\x4e\x2b\xa9"
_PROMISE = b"Promise Technology, Inc."
_BCACHE, _BCACHEFS = (
    b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81",
    b"\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef",
)
_IDENTIFIED = "filesystems.identified."

# In the order in which blkid looks, as more than one may match: RAID and what encrypts or caches before what its
# members hold, then filesystems. The first one counts.
PROBES = (
    Probe(
        "linux_raid_member",
        ((0, _MD), (4096, _MD)),
        "volumes.md",
        "raid",
        ((65536, 65536, _MD), (65536, 65536, _MD[::-1]), (8192, 4096, _MD)),
    ),
    Probe(
        "ddf_raid_member",
        (),
        usage="raid",
        end_magics=((512, 512, b"\xde\x11\xde\x11"), (257 * 512, 512, b"\xde\x11\xde\x11")),
        fields=Fields(uuid=(8, 24), version=(32, 8)),
    ),
    Probe(
        "isw_raid_member",
        (),
        usage="raid",
        end_magics=((1024, 512, b"Intel Raid ISM Cfg Sig. "),),
        fields=Fields(version=(24, 6)),
    ),
    # At these of the sectors that blkid tries: the others are for geometries of the past.
    Probe(
        "promise_fasttrack_raid_member",
        (),
        usage="raid",
        end_magics=tuple((sector * 512, 512, _PROMISE) for sector in (63, 255, 256, 16)),
    ),
    Probe(
        "hpt45x_raid_member",
        (),
        usage="raid",
        end_magics=((11 * 512, 512, b"\xf3\x16\x78\x5a"), (11 * 512, 512, b"\xfd\x16\x78\x5a")),
    ),
    Probe("bcache", ((0x1018, _BCACHE),), _IDENTIFIED + "caches", "other", identify="identify_bcache"),
    Probe("bcachefs", ((0x1018, _BCACHE), (0x1018, _BCACHEFS)), _IDENTIFIED + "caches", identify="identify_bcachefs"),
    Probe("ceph_bluestore", ((0, b"bluestore block device"),), usage="other"),
    Probe("LVM2_member", tuple((sector * 512, b"LABELONE") for sector in range(4)), "volumes.lvm2", "raid"),
    Probe("crypto_LUKS", ((0, b"LUKS\xba\xbe"),), "volumes.luks", "crypto"),
    Probe("ubi", ((0, b"UBI#"),), _IDENTIFIED + "flash", "raid", identify="identify_ubi"),
    # Before FAT, which the first sectors of BitLocker To Go are as well.
    Probe(
        "BitLocker",
        ((3, b"-FVE-FS-"), (424, b"\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01")),
        "volumes.bitlocker",
        "crypto",
    ),
    Probe("cs_fvault2", ((88, b"CS\x01\0\0\0"),), usage="crypto", fields=Fields(uuid=0x130 - 88, version="1")),
    Probe("vfat", ((510, b"\x55\xaa"), (82, b"FAT32   "), (82, b"MSWIN"), (54, b"FAT"), (54, b"MSDOS")), "fat"),
    Probe(
        "swsuspend",
        (
            (0, b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c"),
            *((page - 10, magic) for page in _PAGE_SIZES for magic in _SUSPENDED),
        ),
        _IDENTIFIED + "swap",
        "other",
        identify="identify_suspended",
    ),
    Probe(
        "swap",
        tuple((page - 10, magic) for page in _PAGE_SIZES for magic in (b"SWAPSPACE2", b"SWAP-SPACE")),
        _IDENTIFIED + "swap",
        "other",
        identify="identify_swap",
    ),
    Probe("xfs", ((0, b"XFSB"),), "xfs"),
    Probe("xfs_external_log", ((0, b"\xfe\xed\xba\xbe"),), usage="other"),
    Probe("ext", ((0x438, b"\x53\xef"),), "ext4"),
    *(
        Probe("reiserfs", ((0x10034, magic),), fields=Fields(uuid=32, label=(48, 16), version=version))
        for magic, version in ((b"ReIsErFs", "3.5"), (b"ReIsEr2Fs", "3.6"), (b"ReIsEr3Fs", "JR"))
    ),
    Probe("reiser4", ((0x10000, b"ReIsEr4"),), fields=Fields(uuid=20, label=(36, 16), version="4")),
    Probe("jfs", ((0x8000, b"JFS1"),), fields=Fields(uuid=136, label=(152, 16))),
    Probe(
        "udf",
        tuple((0x8001, magic) for magic in (b"BEA01", b"BOOT2", b"CD001", b"CDW02", b"NSR02", b"NSR03", b"TEA01")),
        "udf",
    ),
    Probe("iso9660", ((0x8001, b"CD001"), (0x8009, b"CDROM")), "iso9660"),
    # The heads of a packed list of names and values, on machines of either byte order.
    Probe(
        "zfs_member",
        tuple((0x4000, b"\x01" + order + b"\0\0\0\0\0\0\0\0\0\x01") for order in (b"\0", b"\x01")),
        _IDENTIFIED + "zfs",
    ),
    Probe("hfsplus", ((0x400, b"BD"), (0x400, b"H+"), (0x400, b"HX")), "hfsplus"),
    Probe("hfs", ((0x400, b"BD"),), _IDENTIFIED + "others", identify="identify_hfs"),
    Probe(
        "ufs",
        tuple(
            (offset + 1372, magic)
            for offset in (8192, 65536, 0, 262144)
            for magic in (b"\x54\x19\x01\0", b"\0\x01\x19\x54", b"\x19\x01\x54\x19", b"\x19\x54\x01\x19")
        ),
        "ufs",
    ),
    Probe("hpfs", ((0x2000, b"\x49\xe8\x95\xf9"),), _IDENTIFIED + "others", identify="identify_hpfs"),
    Probe("ntfs", ((3, b"NTFS    "),), "ntfs"),
    Probe(
        "cramfs",
        ((0, b"\x45\x3d\xcd\x28"), (0, b"\x28\xcd\x3d\x45")),
        _IDENTIFIED + "flash",
        identify="identify_cramfs",
    ),
    Probe(
        "ocfs2",
        tuple((block * 2, b"OCFSV2") for block in (512, 1024, 2048, 4096)),
        _IDENTIFIED + "others",
        identify="identify_ocfs2",
    ),
    Probe("squashfs", ((0, b"hsqs"), (0, b"sqsh")), "squashfs"),
    Probe("btrfs", ((0x10040, b"_BHRfS_M"),), "btrfs"),
    Probe("ubifs", ((0, b"\x31\x18\x10\x06"),), _IDENTIFIED + "flash", identify="identify_ubifs"),
    Probe("bfs", ((0, b"\xce\xfa\xad\x1b"),)),
    Probe("VMFS", ((0x200000, b"\x5e\xf1\xab\x2f"),), _IDENTIFIED + "others", identify="identify_vmfs"),
    Probe(
        "befs",
        tuple((offset, magic) for offset in (32, 544) for magic in (b"1SFB", b"BFS1")),
        "befs",
    ),
    Probe("nilfs2", ((0x406, b"\x34\x34"),), _IDENTIFIED + "others", identify="identify_nilfs2"),
    Probe("exfat", ((3, b"EXFAT   "),), "exfat"),
    Probe("f2fs", ((0x400, b"\x10\x20\xf5\xf2"),), _IDENTIFIED + "others", identify="identify_f2fs"),
    Probe("mpool", ((0, b"mpoolDev"),), fields=Fields(uuid=40, label=(8, 32))),
    Probe("apfs", ((32, b"NXSB"),), fields=Fields(uuid=40)),
    Probe("zonefs", ((0, b"SFOZ"),)),
    Probe("erofs", ((0x400, b"\xe2\xe1\xf5\xe0"),), fields=Fields(uuid=48, label=(64, 16))),
    # The second header of LUKS2, where the first is gone: after what may have been made in its place.
    Probe("crypto_LUKS", tuple((0x4000 << power, b"SKUL\xba\xbe") for power in range(9)), "volumes.luks", "crypto"),
)


def matches(device: BlockDevice) -> Iterator[tuple[Probe, int]]:
    """What `device` may hold, and where the magic is. Each block with magics is read once."""
    size = device.size
    blocks: dict[int, Buffer] = {}
    for probe in PROBES:
        ends = [(size // unit * unit - back, magic) for back, unit, magic in probe.end_magics]
        for offset, magic in (*probe.magics, *ends):
            if not 0 <= offset <= size - len(magic):
                continue
            start = offset - offset % _BLOCK_BYTES
            block = blocks.get(start)
            if block is None:
                # A magic at the end of a block may go on in the next one.
                block = blocks[start] = device.read(start, min(_BLOCK_BYTES + _LONGEST_MAGIC, size - start))
            if block[offset - start : offset - start + len(magic)] == magic:
                yield probe, offset
                break

"""What an ext superblock is called, beside blkid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from guestctl.block import FileDevice
from guestctl.core.errors import UnsupportedFeature
from guestctl.disk.filesystem import FileSystem, Identity

Run = Callable[..., str]

UUID = "01234567-89ab-cdef-0123-456789abcdef"
# name -> (arguments of mke2fs, requests of debugfs)
KINDS = {
    "ext2": ("-t ext2", ""),
    "ext2-revision-0": ("-t ext2 -r 0 -O none", ""),
    "ext2-meta-bg": ("-t ext2 -O meta_bg,^resize_inode", ""),
    "ext2-with-extents-is-ext4": ("-t ext2 -O extents", ""),
    "ext3": ("-t ext3", ""),
    "ext3-dirty": ("-t ext3", "feature needs_recovery"),
    "ext3-with-huge-file-is-ext4": ("-t ext3 -O huge_file", ""),
    "ext4": ("-t ext4", ""),
    "ext4-without-journal": ("-t ext4 -O ^has_journal", ""),
    "ext4-no-features-is-ext2": ("-t ext4 -O none -r 1", ""),
    "ext4-for-tests": ("-t ext4 -E test_fs", ""),
    "journal-device": ("-O journal_dev -b 4096", ""),
    "label-of-16": ("-t ext4 -L abcdefghijklmnop", ""),
    "label-with-spaces": ("-t ext4 -L _lead__trail_", ""),
    "label-of-spaces": ("-t ext4 -L ____", ""),
    "label-with-tabs": ("-t ext4 -L \tlead-trail\t", ""),
    "label-with-line-ends": ("-t ext4 -L \nlead-trail\v\f\r\n", ""),
    "label-in-utf8": ("-t ext4 -L Größe-日本", ""),
    "no-uuid": ("-t ext4 -O ^metadata_csum -U clear", ""),
    "minor-revision": ("-t ext2", "set_super_value minor_rev_level 3"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_identity_is_blkids(run: Run, tmp_path: Path, kind: str) -> None:
    arguments, requests = KINDS[kind]
    image = tmp_path / "image"
    words = arguments.split(" ")
    if kind.startswith("label"):
        words = [word.replace("_", " ") for word in words]
    uuid = [] if "-U" in words else ["-U", UUID]
    run("mke2fs", "-q", "-F", *uuid, *words, image, "8M")
    if requests:
        run("debugfs", "-w", "-R", requests, image)
    expected = _blkid(run, image)
    with FileDevice.open(image) as device:
        identity = FileSystem.identify(device)
        assert identity == expected
        if expected.type == "jbd":
            with pytest.raises(UnsupportedFeature, match="journal_dev"):
                FileSystem.detect(device)
        else:
            filesystem = FileSystem.detect(device)
            assert (filesystem.type, filesystem.version, filesystem.label, filesystem.uuid) == (
                expected.type,
                expected.version,
                expected.label,
                expected.uuid,
            )


def _blkid(run: Run, image: Path) -> Identity:
    fields = {
        name: run("blkid", "-p", "-o", "value", "-s", name, image).removesuffix("\n") or None
        for name in ("TYPE", "USAGE", "VERSION", "LABEL", "UUID")
    }
    assert fields["TYPE"] is not None and fields["USAGE"] is not None
    return Identity(fields["TYPE"], fields["USAGE"], fields["VERSION"], fields["LABEL"], fields["UUID"])


@pytest.mark.parametrize("name", ["ext4", "jbd"])
def test_images_of_blkids_own_tests(shared: Path, tmp_path: Path, name: str) -> None:
    import lzma

    image = tmp_path / "image"
    image.write_bytes(lzma.decompress((shared / "blkid" / "images-fs" / f"{name}.img.xz").read_bytes()))
    lines = (shared / "blkid" / "images-fs" / f"{name}.expected").read_text().split()
    expected = dict(line.partition("=")[::2] for line in lines)
    with FileDevice.open(image) as device:
        identity = FileSystem.identify(device)
    assert identity == Identity(
        expected["ID_FS_TYPE"],
        expected["ID_FS_USAGE"],
        expected["ID_FS_VERSION"],
        expected.get("ID_FS_LABEL"),
        expected["ID_FS_UUID"],
    )

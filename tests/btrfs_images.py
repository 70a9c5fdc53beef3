"""Making Btrfs images, on one device and on several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from guestctl.block import FileDevice
from guestctl.disk import FileSystem
from guestctl.disk.filesystem import Options
from guestctl.disk.filesystems.btrfs import BtrfsFileSystem

Run = Callable[..., str]


def make(run: Run, images: Path | Sequence[Path], arguments: str = "", size: int = 256 << 20) -> None:
    """mkfs.btrfs over new sparse files."""
    paths = [images] if isinstance(images, Path) else images
    for path in paths:
        with path.open("wb") as stream:
            stream.truncate(size)
    run("mkfs.btrfs", "-q", "-f", *arguments.split(), *paths)


@contextmanager
def opened(*images: Path, options: Options = Options()) -> Iterator[BtrfsFileSystem]:
    """The filesystem on the first image, with the others as its siblings."""
    with ExitStack() as stack:
        first, *others = [stack.enter_context(FileDevice.open(image)) for image in images]
        filesystem = FileSystem.detect(first, options=options._replace(siblings=others))
        assert isinstance(filesystem, BtrfsFileSystem)
        stack.enter_context(filesystem)
        yield filesystem


@contextmanager
def mounted(run: Run, mount: Callable[..., object], images: Sequence[Path], options: str) -> Iterator[Path]:
    """The kernel's mount of a filesystem on several images."""
    loops: list[str] = []
    try:
        loops.extend(run("losetup", "--find", "--show", image).strip() for image in images)
        devices = ",".join(f"device={loop}" for loop in loops)
        with mount(loops[0], f"{options},{devices}") as target:  # type: ignore[attr-defined]
            yield target
    finally:
        for loop in loops:
            run("losetup", "--detach", loop)
        run("btrfs", "device", "scan", "--forget")

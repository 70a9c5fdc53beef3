"""The storage stack as a picture: what lies on a device stands to its right, as high as it is large."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from guestctl.cli.html.elements import Html, element
from guestctl.cli.output import size_text
from guestctl.detectors.report import Filesystem, Report

_WIDTH = 960
_MAX_COLUMNS = 8
_MAX_BLOCKS = 200
_LEAST_HEIGHT = 50  # for two lines of text and a bar
_DISK_HEIGHT = 220
_GAP = 4


@dataclass
class _Block:
    """A device and what lies on it; what lies on several is on the first, and names the others."""

    name: str
    title: str
    size: int
    used: int | None
    kind: str
    children: list[_Block] = field(default_factory=list)

    def least_height(self) -> int:
        return max(_LEAST_HEIGHT, sum(child.least_height() for child in self.children))

    def columns(self) -> int:
        return 1 + max((child.columns() for child in self.children), default=0)


def storage_picture(report: Report) -> Html:
    """An SVG of all disks."""
    disks, left_out = _blocks(report)
    columns = max((disk.columns() for disk in disks), default=1)
    width = _WIDTH // columns
    largest = max((disk.size for disk in disks), default=0) or 1
    y = 0
    parts: list[str] = []
    for disk in disks:
        height = max(disk.least_height(), _DISK_HEIGHT * disk.size // largest)
        parts += _draw(disk, 0, y, width, height)
        y += height + 3 * _GAP
    picture = element(
        "svg",
        *parts,
        viewBox=f"0 0 {_WIDTH} {max(y - 2 * _GAP, 1)}",
        role="img",
        aria_label="The disks, their partitions, volumes and filesystems, as the table below has them",
    )
    more = [element("p", f"and {left_out} devices more", class_="note")] if left_out else []
    return element("div", picture, *more, class_="picture")


def _blocks(report: Report) -> tuple[list[_Block], int]:
    mounted = {device: path for guest in report.guests for path, device in guest.mountpoints.items()}
    blocks: dict[str, _Block] = {}
    depth: dict[str, int] = {}
    disks = []
    for image in report.images:
        title = " · ".join(filter(None, (image.format, size_text(image.virtual_size), image.partition_table)))
        block = _Block(image.device, title, image.virtual_size, None, "disk")
        blocks[image.device] = block
        depth[image.device] = 1
        disks.append(block)
    pending = [one for one in report.filesystems if one.device not in blocks]
    whole = {one.device: one for one in report.filesystems if one.device in blocks}
    for name, one in whole.items():  # a filesystem straight on a disk
        if one.type not in ("unknown", "partitioned"):
            blocks[name].title += f" · {one.type}"
            blocks[name].used = one.used
            blocks[name].kind = _kind(one.type)
    left_out = 0
    for one in _parents_first(pending):
        parent = next((name for name in one.parents if name in blocks), None)
        if parent is None or len(blocks) >= _MAX_BLOCKS or depth[parent] >= _MAX_COLUMNS:
            left_out += 1
            continue
        others = [name for name in one.parents if name != parent]
        words = (one.type, one.label, size_text(one.size), mounted.get(one.device))
        title = " · ".join(filter(None, words)) + (f" · also on {', '.join(others)}" if others else "")
        block = _Block(one.device, title, one.size, one.used, _kind(one.type))
        blocks[one.device] = block
        depth[one.device] = depth[parent] + 1
        blocks[parent].children.append(block)
    return disks, left_out


def _parents_first(pending: list[Filesystem]) -> Iterator[Filesystem]:
    """Volumes come after what they lie on, whatever order the report has them in."""
    by_name = {one.device: one for one in pending}
    done: set[str] = set()
    for start in pending:
        trail = [start]
        while trail:
            one = trail[-1]
            wanting = [name for name in one.parents if name in by_name and name not in done]
            if wanting and len(trail) < _MAX_COLUMNS:
                trail.append(by_name[wanting[0]])
                continue
            trail.pop()
            if one.device not in done:
                done.add(one.device)
                yield one


def _kind(type_: str) -> str:
    if type_ in ("unknown", "swap", "partitioned"):
        return type_
    volume = type_.endswith(("_member", "_raid_member")) or type_ in ("crypto_LUKS", "BitLocker")
    return "volume" if volume else "filesystem"


def _draw(block: _Block, x: int, y: int, width: int, height: int) -> Iterator[Html]:
    inner_width, inner_height = width - _GAP, height - _GAP
    shapes = [element("rect", width=inner_width, height=inner_height, rx=6, class_=f"block {block.kind}")]
    percent = None if block.used is None else min(100, 100 * block.used // max(block.size, 1))
    if percent is not None:
        bar = inner_width - 20
        at = {"x": 10, "y": inner_height - 10, "height": 4, "rx": 2}
        shapes.append(element("rect", width=bar, class_="bar", **at))
        shapes.append(element("rect", width=max(2, bar * percent // 100), class_="used", **at))
    used = "" if percent is None else f" · {percent}% used"
    shapes += [
        element("title", f"{block.name}: {block.title}{used}"),
        element("text", block.name, x=10, y=17, class_="name"),
        element("text", f"{block.title}{used}", x=10, y=32),
    ]
    yield element("svg", *shapes, x=x, y=y, width=inner_width, height=inner_height)
    for child, child_height in zip(block.children, _heights(block, height), strict=True):
        yield from _draw(child, x + width, y, width, child_height)
        y += child_height


def _heights(block: _Block, height: int) -> list[int]:
    """The height for each child, to scale as far as their least heights leave room; what is free stays free."""
    least = [child.least_height() for child in block.children]
    sizes = [max(child.size, 1) for child in block.children]
    whole = max(block.size, sum(sizes))
    wanted = [height * size // whole for size in sizes]
    heights = [max(pair) for pair in zip(least, wanted, strict=True)]
    excess = sum(heights) - height
    room = [high - low for high, low in zip(heights, least, strict=True)]
    if excess > 0:
        heights = [high - -(-excess * space // sum(room)) for high, space in zip(heights, room, strict=True)]
    return heights

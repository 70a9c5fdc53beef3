"""``Hive``: a file of the registry, with what its logs still hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from guestctl.block import BlockDevice
from guestctl.core.errors import InvalidFormat
from guestctl.detectors.files import Tree
from guestctl.detectors.registry import layout as L
from guestctl.detectors.registry.cells import Cells
from guestctl.detectors.registry.key import Key
from guestctl.detectors.registry.log import parse_base_block, replay

_LOG_SUFFIXES = (".LOG1", ".LOG2", ".LOG")


class Hive:
    """The keys of a hive on `device`, after its `logs` were replayed. Raises `InvalidFormat`."""

    def __init__(self, device: BlockDevice, logs: Sequence[BlockDevice] = ()) -> None:
        self.warnings: list[str] = []
        base = parse_base_block(bytes(device.read(0, min(device.size, L.BASE_BLOCK_BYTES))))
        if base is None:
            raise InvalidFormat("no hive: its signature or version is missing", structure="base block", offset=0)
        if base.primary != base.secondary or not base.sound:
            device, base, count = replay(device, base, logs)
            self.warnings.append(f"log replayed: {count} writes" if count else "not flushed, and no log to replay")
        self.device = device  # with what was replayed
        self.base = base
        self.root = Key(Cells(device, base.bins_bytes, base.minor), base.root)

    @classmethod
    def open(cls, tree: Tree, path: str) -> Hive:
        """The hive at `path` in a guest, and its logs beside it. ``FileNotFoundError`` where there is none."""
        logs = [tree.device(path + suffix) for suffix in _LOG_SUFFIXES if tree.is_file(path + suffix)]
        return cls(tree.device(path), [log for log in logs if log.size])

    def key(self, path: str) -> Key | None:
        """The key at `path`, names separated by backslashes; None where there is none."""
        key: Key | None = self.root
        for name in filter(None, path.split("\\")):
            key = key.subkey(name) if key is not None else None
        return key

    def walk(self, top: Key | None = None, *, errors: list[InvalidFormat] | None = None) -> Iterator[tuple[str, Key]]:
        """Every key from `top` (or the root) down, with its path below that: a key before those in it.

        A key that stands in two places is an error the second time.
        """
        pending = [("", top or self.root)]
        seen: set[int] = set()
        while pending:
            path, key = pending.pop()
            if key.offset in seen:
                error = InvalidFormat("a key in two places", structure="key node", offset=key.offset)
                if errors is None:
                    raise error
                errors.append(error)
                continue
            seen.add(key.offset)
            yield path, key
            try:
                below = list(key.subkeys(errors=errors))
            except InvalidFormat as error:
                if errors is None:
                    raise
                errors.append(error)
                continue
            pending += [(f"{path}\\{child.name}", child) for child in reversed(below)]

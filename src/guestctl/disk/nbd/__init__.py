"""NBD, the network block device: any device of guestctl for qemu, nbdcopy and the kernel.

From the NBD protocol document (NetworkBlockDevice/nbd, doc/proto.md): fixed newstyle negotiation with
``NBD_OPT_EXPORT_NAME``, ``ABORT``, ``LIST``, ``STARTTLS``, ``INFO``, ``GO``, ``STRUCTURED_REPLY``,
``LIST_META_CONTEXT`` and ``SET_META_CONTEXT`` (``base:allocation``); ``NBD_CMD_READ``, ``BLOCK_STATUS``,
``CACHE`` and ``DISC``; on a `WritableDevice` also ``WRITE``, ``WRITE_ZEROES``, ``TRIM`` and ``FLUSH``, which on
others are answered with ``EPERM``. Refused: oldstyle negotiation, extended headers, other metadata contexts.
"""

from guestctl.disk.nbd.server import NbdServer

__all__ = ["NbdServer"]

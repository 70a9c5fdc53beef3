"""The options of a new qcow2 image, with qemu-img's names, and which of them go together."""

from __future__ import annotations

import os
from dataclasses import replace

from guestctl.block.output import Output
from guestctl.core.errors import ConversionError
from guestctl.disk.formats.qcow2 import layout
from guestctl.disk.formats.qcow2.filenames import parse_reference
from guestctl.disk.formats.qcow2.header import Extensions, Header
from guestctl.disk.formats.qcow2.layout import Incompatible
from guestctl.disk.formats.qcow2.writer import Preallocation, Qcow2Writer
from guestctl.disk.writer import Options

_VERSIONS = {"0.10": 2, "v2": 2, "1.1": 3, "v3": 3}
_COMPRESSION_TYPES = {"zlib": layout.COMPRESSION_ZLIB, "zstd": layout.COMPRESSION_ZSTD}
_PREALLOCATIONS = {
    "off": Preallocation(),
    "metadata": Preallocation(metadata=True),
    "falloc": Preallocation(metadata=True, space=True),
    "full": Preallocation(metadata=True, space=True, zeros=True),
}


def create(output: Output, size: int, options: Options) -> Qcow2Writer:
    """The writer of an image of `size` bytes, rounded up to whole sectors as qemu-img does."""
    preallocation = options.choice("preallocation", _PREALLOCATIONS, "off")
    compress = options.flag("compress")
    data_file_raw = options.flag("data_file_raw")
    extensions = Extensions(
        backing_file=options.text("backing_file"),
        backing_format=options.text("backing_fmt"),
        data_file=options.text("data_file"),
    )
    header = _header(-(-size // 512) * 512, options, extensions, data_file_raw=data_file_raw)
    _check_files(output, extensions)
    _require(not data_file_raw or extensions.data_file is not None, "data_file_raw needs data_file")
    _require(not data_file_raw or extensions.backing_file is None, "backing_file and data_file_raw exclude each other")
    _require(
        not preallocation.metadata or extensions.backing_file is None or header.extended_l2,
        "backing_file and preallocation go together only with extended_l2=on",
    )
    # The clusters would hold what was on the device before.
    _require(not (preallocation.metadata and output.is_device), "preallocation is for files, not for block devices")
    if compress:
        _require(not preallocation.metadata, "compression and preallocation exclude each other")
        _require(extensions.data_file is None, "compression and data_file exclude each other")
        _require(
            header.refcount_order > 0, "compressed clusters share host clusters: refcount_bits=1 cannot count that"
        )
    if data_file_raw:
        preallocation = preallocation._replace(metadata=True)
    data_file = None
    if extensions.data_file is not None:
        data_file = output.create(parse_reference(extensions.data_file, None).path)
    return Qcow2Writer(output, header, extensions, preallocation, data_file=data_file, compress=compress)


def _header(size: int, options: Options, extensions: Extensions, *, data_file_raw: bool) -> Header:
    version = options.choice("compat", _VERSIONS, "1.1")
    cluster_bits = _cluster_bits(options)
    compression_type = options.choice("compression_type", _COMPRESSION_TYPES, "zlib")
    extended_l2 = options.flag("extended_l2")
    lazy_refcounts = options.flag("lazy_refcounts")
    refcount_order = _refcount_order(options)
    needs_v3 = {
        "compression_type=zstd": compression_type == layout.COMPRESSION_ZSTD,
        "extended_l2": extended_l2,
        "lazy_refcounts": lazy_refcounts,
        "refcount_bits": refcount_order != layout.DEFAULT_REFCOUNT_ORDER,
        "data_file": extensions.data_file is not None,
    }
    for name, used in needs_v3.items():
        _require(version > 2 or not used, f"{name} needs compat=1.1")
    _require(
        not extended_l2 or cluster_bits >= layout.MIN_EXTENDED_CLUSTER_BITS,
        f"extended_l2 needs a cluster_size of at least {1 << layout.MIN_EXTENDED_CLUSTER_BITS}",
    )
    incompatible = (
        (Incompatible.DATA_FILE if extensions.data_file is not None else 0)
        | (Incompatible.COMPRESSION if compression_type != layout.COMPRESSION_ZLIB else 0)
        | (Incompatible.EXTENDED_L2 if extended_l2 else 0)
    )
    header = Header(
        version=version,
        backing_file_offset=0,
        backing_file_size=0,
        cluster_bits=cluster_bits,
        size=size,
        crypt_method=0,
        l1_size=0,
        l1_table_offset=0,
        refcount_table_offset=0,
        refcount_table_clusters=0,
        nb_snapshots=0,
        snapshots_offset=0,
        incompatible_features=int(incompatible),
        compatible_features=layout.COMPATIBLE_LAZY_REFCOUNTS if lazy_refcounts else 0,
        autoclear_features=layout.AUTOCLEAR_RAW_DATA_FILE if data_file_raw else 0,
        refcount_order=refcount_order,
        header_length=layout.HEADER_BYTES if version > 2 else layout.HEADER_V2.size,
        compression_type=compression_type,
    )
    l1_size = header.l1_entries_for(size)
    _require(l1_size * 8 <= layout.MAX_L1_BYTES, f"{size} bytes are too many for cluster_size={1 << cluster_bits}")
    return replace(header, l1_size=l1_size)


def _cluster_bits(options: Options) -> int:
    size = options.size("cluster_size", layout.DEFAULT_CLUSTER_BYTES)
    smallest, largest = 1 << layout.MIN_CLUSTER_BITS, 1 << layout.MAX_CLUSTER_BITS
    _require(
        smallest <= size <= largest and not size & size - 1,
        f"cluster_size is {size}, not a power of two from {smallest} to {largest >> 10}k",
    )
    return size.bit_length() - 1


def _refcount_order(options: Options) -> int:
    bits = options.size("refcount_bits", 1 << layout.DEFAULT_REFCOUNT_ORDER)
    _require(1 <= bits <= 1 << layout.MAX_REFCOUNT_ORDER and not bits & bits - 1, f"refcount_bits is {bits}")
    return bits.bit_length() - 1


def _check_files(output: Output, extensions: Extensions) -> None:
    """No file may have two of the parts: a new one would replace the backing file."""
    if extensions.backing_file is not None:
        _require(extensions.backing_format is not None, "backing_file needs backing_fmt")
    else:
        _require(extensions.backing_format is None, "backing_fmt needs backing_file")
    _require(
        len((extensions.backing_format or "").encode()) <= layout.MAX_FORMAT_NAME_BYTES,
        f"backing_fmt={extensions.backing_format}",
    )
    used = {os.path.realpath(output.path): "the new image"}
    for role, name in (("backing_file", extensions.backing_file), ("data_file", extensions.data_file)):
        if name is not None:
            path = os.path.join(os.path.dirname(output.path), parse_reference(name, None).path)
            other = used.setdefault(os.path.realpath(path), role)
            _require(other == role, f"{role}={name} is {other}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConversionError(f"qcow2: {message}")

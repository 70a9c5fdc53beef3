"""Conversion of disk images into each other: the native engine and the qemu-img engine."""

from guestctl.converters.converter import ConversionResult, DiskConverter

__all__ = ["ConversionResult", "DiskConverter"]

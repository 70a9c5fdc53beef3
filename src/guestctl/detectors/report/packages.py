"""Packages: what a package manager, or the tools of a language, have installed."""

from __future__ import annotations

import msgspec


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """A package. ``epoch``, ``version`` and ``release`` are what its manager takes a version apart to."""

    manager: str  # "dpkg", "rpm", "apk", … or the registry of a language: "pypi", "npm", "maven", …
    name: str
    namespace: str = ""  # before the name where that has two parts: a category, a scope, a group
    epoch: int = 0
    version: str = ""
    release: str = ""
    arch: str = ""
    status: str = "installed"  # dpkg's word
    summary: str = ""
    description: str = ""
    url: str = ""
    publisher: str = ""
    licenses: list[str] = []  # as the package puts them
    source: str = ""  # the source package
    source_version: str = ""  # where it is not the version
    origin: str = ""  # the repository, channel or remote that it came from
    install_time: int | None = None  # seconds since 1970
    size: int | None = None  # bytes when installed, as the package says
    path: str = ""  # the file or directory that says so, where there is no database
    digests: dict[str, str] = {}  # of the file at ``path``, in hexadecimal, by hashlib's names

    @property
    def full_version(self) -> str:
        """``[epoch:]version[-release]``."""
        epoch = f"{self.epoch}:" if self.epoch else ""
        return f"{epoch}{self.version}" + (f"-{self.release}" if self.release else "")


class PackageFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file or directory that a package brought, as its manager's database has it; unknown is None."""

    path: str
    algorithm: str | None = None  # hashlib's name of the digest
    digest: str | None = None  # in hexadecimal
    config: bool = False
    size: int | None = None
    mode: int | None = None  # st_mode, or its permissions alone
    mtime: int | None = None
    owner: str | None = None  # names, or decimal numbers
    group: str | None = None
    target: str | None = None  # of a symbolic link

"""Tags of rpm headers that are read, and values of theirs (the manual's "Tags", and its "File format")."""

from __future__ import annotations

from enum import IntEnum


class Tag(IntEnum):
    NAME = 1000
    VERSION = 1001
    RELEASE = 1002
    EPOCH = 1003
    SUMMARY = 1004
    DESCRIPTION = 1005
    INSTALLTIME = 1008
    SIZE = 1009
    VENDOR = 1011
    LICENSE = 1014
    URL = 1020
    ARCH = 1022
    OLDFILENAMES = 1027  # before rpm 4, instead of the next three
    DIRINDEXES = 1116
    BASENAMES = 1117
    DIRNAMES = 1118
    FILESIZES = 1028
    FILEMODES = 1030
    FILEMTIMES = 1034
    FILEDIGESTS = 1035
    FILELINKTOS = 1036
    FILEFLAGS = 1037
    FILEUSERNAME = 1039
    FILEGROUPNAME = 1040
    SOURCERPM = 1044
    LONGFILESIZES = 5008
    LONGSIZE = 5009
    FILEDIGESTALGO = 5011


MD5 = 1  # where FILEDIGESTALGO is missing
DIGESTS = {MD5: "md5", 2: "sha1", 8: "sha256", 9: "sha384", 10: "sha512", 11: "sha224"}
CONFIG = 1  # of FILEFLAGS

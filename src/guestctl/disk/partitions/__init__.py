"""One room per partition scheme, and the order in which they are tried."""

# (room, logical sector size in bytes). GPT first: its protective MBR is an MBR too.
SCHEMES = (
    ("gpt", 512),
    ("gpt", 4096),
    ("mbr", 512),
    ("mbr", 4096),
    ("bsd", 512),
    ("sun", 512),
    ("amiga", 512),
    ("mac", 512),
    ("sgi", 512),
    ("dasd", 512),
    ("atari", 512),  # last, as it has no magic
)

# Rooms whose tables lie in a partition of a type, on disks of any scheme: those of FreeBSD, OpenBSD and NetBSD.
NESTED = dict.fromkeys(
    (
        "0xa5",
        "0xa6",
        "0xa9",
        "516e7cb4-6ecf-11d6-8ff8-00022d09712b",
        "824cc7a0-36a8-11e3-890a-952519ad3f61",
    ),
    "bsd",
)

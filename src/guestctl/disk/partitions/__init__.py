"""One room per partition scheme, and the order in which they are tried."""

# (room, logical sector size in bytes). GPT first: its protective MBR is an MBR too.
SCHEMES = (
    ("gpt", 512),
    ("gpt", 4096),
    ("mbr", 512),
    ("mbr", 4096),
)

"""What is told by name, label and UUID, as ``blkid -p`` tells it, and not read.

Most types need only the offsets in the table of probes, which `fields` reads; the modules here are for those
that need more. Each takes little from the device and gives None where the magic was an accident.
"""

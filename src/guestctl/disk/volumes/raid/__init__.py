"""How RAID levels lay out data, as Linux has them: what the rooms of md and LVM2 share.

A leg is the part of a member that holds data, from its offset 0; None is a leg that is missing.
"""

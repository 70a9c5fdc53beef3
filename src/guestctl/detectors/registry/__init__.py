"""Windows registry hives.

Specification: "Windows registry file format specification" by Maxim Suhanov.

=======================================  ==================================================================
versions 1.0 to 1.6                      read
keys: index, fast and hash leaves,       read
index roots, class names
values: resident, in a cell, in several  read
(big data)
names in Latin-1 and in UTF-16           read
a hive that was not flushed              its transaction logs are replayed in memory: the old format
                                         (``DIRT``) and the new one (``HvLE``), one log or two
damaged hives                            read as far as they go: what is damaged fails alone, by its offset
volatile keys                            not in a file, and not shown
changes                                  in memory (`editor.HiveEditor`), all of them; written as a clean hive
=======================================  ==================================================================
"""

from guestctl.detectors.registry.hive import Hive
from guestctl.detectors.registry.key import Key, Value

__all__ = ["Hive", "Key", "Value"]

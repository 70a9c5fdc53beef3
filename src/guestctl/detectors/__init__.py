"""Which system is this: each detector looks at one thing, alone, and what fails is a warning."""

from guestctl.detectors.inspection import GuestDetector, inspect

__all__ = ["GuestDetector", "inspect"]

"""What differs between two guests: what their views tell, and their files."""

from guestctl.detectors.diff.facts import Change, diff_guests
from guestctl.detectors.diff.files import FileChange, FileState, diff_files
from guestctl.detectors.diff.places import Places

__all__ = ["Change", "FileChange", "FileState", "Places", "diff_files", "diff_guests"]

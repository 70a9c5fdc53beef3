"""``python -m guestctl``."""

from guestctl.cli import main

main()

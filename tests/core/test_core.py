"""Errors say where; retry gives up with the last error; progress is anything with update."""

from __future__ import annotations

import pytest

from guestctl.core.errors import ChecksumMismatch, CommandFailed, EndOfDevice, GuestctlError, InvalidFormat
from guestctl.core.progress import terminal_progress
from guestctl.core.retry import retry


def test_an_invalid_structure_is_named_with_its_offset() -> None:
    error = InvalidFormat("not this", structure="superblock", offset=1024, expected=1, actual=2)
    assert str(error) == "superblock at offset 0x400: not this"
    assert (error.structure, error.offset, error.expected, error.actual) == ("superblock", 1024, 1, 2)


def test_every_error_is_a_guestctl_error() -> None:
    for error in (
        ChecksumMismatch(structure="inode", offset=0, expected=1, actual=2),
        EndOfDevice(offset=5, length=10, size=8),
        CommandFailed(["qemu-img", "info"], 1, "first\nlast\n"),
    ):
        assert isinstance(error, GuestctlError)
    assert str(CommandFailed(["qemu-img"], 1, "first\nlast\n")) == "qemu-img exited with 1: last"
    assert EndOfDevice(offset=5, length=10, size=8).actual == 3


def test_retry_calls_again_with_growing_random_delays() -> None:
    failures = [OSError("one"), OSError("two"), OSError("three")]
    delays: list[float] = []

    def call() -> str:
        if failures:
            raise failures.pop(0)
        return "done"

    assert retry(call, first_delay=1, max_delay=2, sleep=delays.append) == "done"
    assert len(delays) == 3
    assert all(0 <= delay <= limit for delay, limit in zip(delays, (1, 2, 2), strict=True))


def test_retry_raises_the_last_error_as_it_is() -> None:
    attempts = []

    def call() -> None:
        attempts.append(1)
        raise OSError(f"attempt {len(attempts)}")

    with pytest.raises(OSError, match="attempt 3"):
        retry(call, attempts=3, sleep=lambda _: None)


def test_retry_lets_other_errors_pass() -> None:
    attempts = []

    def call() -> None:
        attempts.append(1)
        raise KeyError("other")

    with pytest.raises(KeyError):
        retry(call, sleep=lambda _: None)
    assert len(attempts) == 1


def test_progress_is_silent_without_a_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with terminal_progress("Reading") as progress:
        progress.update(1, 2)
        progress.update(2, None)
    assert capfd.readouterr() == ("", "")

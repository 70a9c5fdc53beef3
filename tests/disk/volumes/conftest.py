"""Mutants of an encrypted device's metadata."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence

import pytest

from guestctl.core.errors import GuestctlError

_EXTREMES = (b"\0", b"\xff", b"\x80", b"\x7f\xff\xff\xff", b"\xff" * 4, b"\xff" * 8, b'"', b"[", b"9" * 8)

Fuzz = Callable[..., None]


@pytest.fixture
def fuzz() -> Fuzz:
    """Have `look` see mutants of `image`, changed at `places`; it may raise nothing but `GuestctlError`."""

    def _fuzz(
        image: bytes,
        look: Callable[[bytearray], object],
        *,
        places: Sequence[range],
        seal: Callable[[bytearray], object] | None = None,
    ) -> None:
        end = time.monotonic() + float(os.environ.get("GUESTCTL_FUZZ_SECONDS", "4"))
        seed = 0
        while time.monotonic() < end:
            source = random.Random(seed)
            mutant = bytearray(image)
            for _ in range(source.choice((1, 1, 2, 4))):
                at = source.choice(source.choice(places))
                new = source.choice((*_EXTREMES, source.randbytes(1), source.randbytes(4)))
                mutant[at : at + len(new)] = new
            if seal is not None and seed % 2:
                seal(mutant)
            started = time.process_time()
            try:
                look(mutant)
            except GuestctlError as error:
                assert str(error)
            except Exception as error:
                error.add_note(f"round {seed}")
                raise
            assert time.process_time() - started < 5, seed
            seed += 1
        assert seed > 20

    return _fuzz

"""Calling again what may fail in passing: exponential backoff with jitter, on tenacity."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def retry(
    call: Callable[[], T],
    *,
    on: type[BaseException] | tuple[type[BaseException], ...] = OSError,
    attempts: int = 5,
    first_delay: float = 0.1,
    max_delay: float = 30.0,
    sleep: Callable[[float], None] | None = None,
) -> T:
    """`call()`, again after each exception of type `on`, at most `attempts` times in all.

    The delay, in seconds, is random between 0 and `first_delay` doubled at each failure, and never
    above `max_delay`. The last exception is raised as it is.
    """
    import tenacity

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(on),
        stop=tenacity.stop_after_attempt(attempts),
        wait=tenacity.wait_random_exponential(multiplier=first_delay, max=max_delay),
        sleep=sleep or tenacity.nap.sleep,
        reraise=True,
    )(call)

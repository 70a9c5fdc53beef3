"""cloud-init: whether it is there, and what it did."""

from __future__ import annotations

import msgspec


class CloudInit(msgspec.Struct, kw_only=True):
    """``datasource`` is cloud-init's own word for where its data came from, None where it never ran."""

    installed: bool = False
    disabled: bool = False
    disabled_by: str | None = None
    ran: bool = False
    instance_id: str | None = None
    datasource: str | None = None
    datasource_list: list[str] = []  # those that it is told to look for
    errors: list[str] = []  # of the last run

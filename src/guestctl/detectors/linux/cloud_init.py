"""cloud-init, by its configuration and what it left below /var/lib/cloud (docs.cloud-init.io, "Boot stages" and
"status.json", "result.json")."""

from __future__ import annotations

import json
import re
from typing import Any

from guestctl.detectors.linux.reading import names_in, text_of
from guestctl.detectors.report.cloud_init import CloudInit
from guestctl.detectors.system import System

_PROGRAMS = ("/usr/bin/cloud-init", "/usr/local/bin/cloud-init", "/bin/cloud-init")
_DISABLED = "/etc/cloud/cloud-init.disabled"
_DATA = "/var/lib/cloud/data"
# Left in /run at run time, kept below /var/lib/cloud.
_RESULTS = (f"{_DATA}/result.json", "/run/cloud-init/result.json")
_LIST = re.compile(r"^datasource_list:\s*\[([^\]]{0,1000})\]", re.MULTILINE)
_BLOCK_LIST = re.compile(r"^datasource_list:[ \t]*\n((?:[ \t]*-[ \t]*\w+[ \t]*(?:\n|\Z))+)", re.MULTILINE)
_MAX_ERRORS = 20


def cloud_init(system: System) -> CloudInit:
    """Whether it is installed, would run, has run, and as which instance."""
    tree = system.tree
    result = _last_result(system)
    identifier = text_of(system, f"{_DATA}/instance-id").strip()
    source = result.get("datasource")
    if not isinstance(source, str):
        # "DataSourceNoCloud: DataSourceNoCloud [seed=/dev/sr0][dsmode=net]"
        source = text_of(system, "/var/lib/cloud/instance/datasource").strip().partition(": ")[2]
    errors = result.get("errors")
    disabled_by = _disabled_by(system)
    return CloudInit(
        installed=any(tree.is_file(program) for program in _PROGRAMS),
        disabled=disabled_by is not None,
        disabled_by=disabled_by,
        ran=bool(identifier or result),
        instance_id=identifier or None,
        datasource=source or None,
        datasource_list=_datasource_list(system),
        errors=[str(error) for error in errors[:_MAX_ERRORS]] if isinstance(errors, list) else [],
    )


def _disabled_by(system: System) -> str | None:
    """The file, the mask, or the word on a kernel's command line; the last is looked for where GRUB takes it."""
    if system.tree.exists(_DISABLED):
        return _DISABLED
    mask = "/etc/systemd/system/cloud-init.service"
    if system.tree.is_symlink(mask) and system.tree.readlink(mask) == "/dev/null":
        return mask
    for line in text_of(system, "/etc/default/grub").splitlines():
        if line.startswith("GRUB_CMDLINE_LINUX") and "cloud-init=disabled" in line:
            return "/etc/default/grub"
    return None


def _last_result(system: System) -> dict[str, Any]:
    for path in _RESULTS:
        text = text_of(system, path)
        if not text:
            continue
        try:
            found = json.loads(text)["v1"]
            if isinstance(found, dict):
                return found
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            system.warnings.append(f"{path}: {error}")
    return {}


def _datasource_list(system: System) -> list[str]:
    """The last file that has one decides."""
    names = [name for name in names_in(system, "/etc/cloud/cloud.cfg.d") if name.endswith(".cfg")]
    found: list[str] = []
    for path in ("/etc/cloud/cloud.cfg", *(f"/etc/cloud/cloud.cfg.d/{name}" for name in names)):
        text = text_of(system, path)
        match = _LIST.search(text) or _BLOCK_LIST.search(text)
        if match:
            found = re.findall(r"\w+", match[1])
    return found

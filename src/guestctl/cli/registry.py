"""``guestctl registry``."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any, BinaryIO

import click

from guestctl.cli.options import TreeOptions, json_option, tree_options

if TYPE_CHECKING:
    from guestctl.core.errors import InvalidFormat
    from guestctl.detectors.registry import Hive, Key, Value

_SYSTEM_HIVES = ("SYSTEM", "SOFTWARE", "SAM", "SECURITY", "DEFAULT")
_CONFIG = "/Windows/System32/config"
_STRING, _DWORD = 1, 4


@click.command("registry")
@click.argument("image")
@click.argument("hive")
@click.argument("path", metavar="[KEY]", default="")
@click.option("-r", "--recursive", is_flag=True, help="All keys below KEY, too.")
@click.option("--import", "reg_file", metavar="FILE", type=click.File("rb"), help="Make the changes of a .reg file.")
@click.option("--prefix", metavar="KEY", default="", help="The key of the .reg file that is the hive's root.")
@click.option("-o", "--output", metavar="FILE", help="With --import: write the changed hive to FILE.")
@tree_options()
@json_option
def command(
    image: str,
    hive: str,
    path: str,
    recursive: bool,
    reg_file: BinaryIO | None,
    prefix: str,
    output: str | None,
    options: TreeOptions,
    as_json: bool,
) -> None:
    """Print KEY of a registry hive in a Windows guest as .reg text: its values, and the names of its subkeys.

    HIVE is a path in the guest, or SYSTEM, SOFTWARE, SAM, SECURITY, DEFAULT. Transaction logs are replayed.
    With --import nothing is printed: the hive, with the changes of a .reg file, is written to a file of the host.
    """
    from guestctl.cli.output import print_json, warn
    from guestctl.detectors.registry import Hive

    if (reg_file is None) != (output is None):
        raise click.UsageError("--import and --output go together")
    file = f"{_CONFIG}/{hive}" if hive.upper() in _SYSTEM_HIVES else hive
    errors: list[InvalidFormat] = []
    with options.tree(image) as (tree, _):
        opened = Hive.open(tree, file)
        if reg_file is not None and output is not None:
            _import(opened, reg_file.read(), prefix, output)
            return
        top = opened.key(path)
        if top is None:
            raise FileNotFoundError(errno.ENOENT, "No such key", path)
        base = f"\\{path.strip(chr(92))}".rstrip("\\")
        found = opened.walk(top, errors=errors) if recursive else [("", top)]
        if as_json:
            print_json([_record(base + below, one, errors) for below, one in found])
        else:
            print("Windows Registry Editor Version 5.00")
            for below, one in found:
                _print_key(base + below, one, errors, with_subkeys=not recursive)
        for warning in (*opened.warnings, *map(str, errors)):
            warn(f"{file}: {warning}")
    if errors:
        raise SystemExit(1)


def _import(hive: Hive, raw: bytes, prefix: str, output: str) -> None:
    from guestctl.detectors.registry.editor import HiveEditor
    from guestctl.detectors.registry.reg_file import decode_reg, parse_reg

    editor = HiveEditor(hive)
    editor.apply(parse_reg(decode_reg(raw)), prefix)
    with open(output, "xb") as file:
        file.write(editor.to_bytes())


def _record(path: str, key: Key, errors: list[InvalidFormat]) -> dict[str, Any]:
    return {
        "key": path or "\\",
        "modified_ns": key.modified_ns,
        "values": [
            {"name": value.name, "type": value.type, "data": value.data.hex()} for value in key.values(errors=errors)
        ],
        "subkeys": [below.name for below in key.subkeys(errors=errors)],
    }


def _print_key(path: str, key: Key, errors: list[InvalidFormat], *, with_subkeys: bool) -> None:
    from guestctl.cli.output import name_for_output

    print(f"\n[{name_for_output(path) or chr(92)}]")
    for value in key.values(errors=errors):
        name = f'"{_quoted(value.name)}"' if value.name else "@"
        print(name_for_output(f"{name}={_data(value)}"))
    if with_subkeys:
        for below in key.subkeys(errors=errors):
            print(f"\n[{name_for_output(f'{path}{chr(92)}{below.name}')}]")


def _data(value: Value) -> str:
    """As regedit writes it: a string only where it is one and would come back as it was."""
    if value.type == _DWORD and len(value.data) == 4:
        return f"dword:{value.number:08x}"
    text = value.text
    if (
        value.type == _STRING
        and text.isprintable()
        and (text + "\0").encode("utf-16-le", "surrogatepass") == value.data
    ):
        return f'"{_quoted(text)}"'
    return f"hex({value.type:x}):{value.data.hex(',')}"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')

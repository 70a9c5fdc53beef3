"""The command line: one module per command, imported when the command is used."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from guestctl.core.errors import GuestctlError

# command -> (module in this package, its one line in --help)
COMMANDS = {
    "inspect": ("inspect", "Show every guest on the disks of a machine."),
    "info": ("info", "Describe a disk image, as qemu-img info does."),
    "map": ("map", "Show where the data of a disk image lies."),
    "check": ("check", "Check the metadata of a disk image."),
    "compare": ("compare", "Compare the contents of two disk images."),
    "create": ("create", "Create an empty disk image or an overlay."),
    "convert": ("convert", "Convert a disk image into another format."),
    "partitions": ("partitions", "List the partitions of a disk."),
    "filesystems": ("filesystems", "List filesystems and other content of devices."),
    "diff": ("diff", "Show what differs between two guests."),
    "df": ("df", "Show how full the filesystems are."),
    "ls": ("ls", "List a directory of the guest."),
    "cat": ("cat", "Print files of the guest."),
    "stat": ("stat", "Show the attributes of a file of the guest."),
    "find": ("find", "List everything below a path of the guest."),
    "hash": ("hash", "Print checksums of the guest's files."),
    "cp": ("cp", "Copy files and directories out of the guest."),
    "tar-out": ("tar_out", "Write a directory of the guest as a tar archive."),
    "mount": ("mount", "Mount the files or the devices of the guest through FUSE."),
    "devices": ("devices", "List the block devices that guestctl attached; detach what is left over."),
    "shell": ("shell", "Look around in the guest, in an interactive shell or a script."),
    "serve": ("serve", "Serve a disk to other programs, over NBD."),
    "boot": ("boot", "Show what the guest starts: loaders, menus, kernel, drivers."),
    "network": ("network", "Show the guest's network configuration."),
    "services": ("services", "Show what the guest starts."),
    "journal": ("journal", "Show what the guest logged, as journalctl does."),
    "users": ("users", "Show who may log in, with which keys and rights."),
    "security": ("security", "Show what restrains users and programs."),
    "containers": ("containers", "Show the container images and containers of the guest."),
    "packages": ("packages", "Show the guest's installed packages."),
    "sbom": ("sbom", "Write a software bill of materials."),
    "registry": ("registry", "Print a key of a Windows registry hive."),
    "schema": ("schema", "Print the JSON Schema of what a command prints."),
    "completion": ("completion", "Print the shell code that completes guestctl's commands."),
    "version": ("version", "Print the version."),
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"guestctl.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # which click would exit with 1 for
            _drop_output()
            sys.exit(141)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Look inside virtual machine disks: no root, no appliance, no mount."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command line and exit: 0 well, 1 an error, 2 wrong usage, or what the command's own help says."""
    _open_missing_streams()
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            # A guest's file name may be any bytes; it goes out as it came in.
            stream.reconfigure(encoding="utf-8", errors="surrogateescape")
    try:
        code = cli.main(args=argv, prog_name="guestctl", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        _drop_output()
        sys.exit(141)
    except (GuestctlError, OSError) as error:
        from guestctl.cli.output import fail

        fail(error)
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


def _drop_output() -> None:
    """Nobody takes what is still in the buffer; the interpreter would complain again at its own flush."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_missing_streams() -> None:
    """A stream that our parent closed: stand in for it, or the image would get its descriptor.

    Standard output opens for reading, so that what is printed fails instead of getting lost.
    """
    if sys.stdout is None:
        sys.stdout = open(os.open(os.devnull, os.O_RDONLY), "w")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")

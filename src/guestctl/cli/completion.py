"""``guestctl completion``."""

from __future__ import annotations

import click


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the code that makes SHELL complete guestctl's commands and options.

    For bash: eval "$(guestctl completion bash)"
    """
    from click.shell_completion import get_completion_class

    from guestctl.cli import cli

    completion = get_completion_class(shell)
    assert completion is not None
    print(completion(cli, {}, "guestctl", "_GUESTCTL_COMPLETE").source())

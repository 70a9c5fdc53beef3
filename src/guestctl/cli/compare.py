"""``guestctl compare``."""

from __future__ import annotations

import click

from guestctl.cli.options import ImageOptions, image_options, json_option


@click.command("compare")
@click.argument("first")
@click.argument("second")
@click.option("-s", "--strict", is_flag=True, help="Sizes and allocation must be equal as well.")
@image_options
@json_option
def command(first: str, second: str, strict: bool, options: ImageOptions, as_json: bool) -> int:
    """Compare the contents of two disk images, as qemu-img compare does.

    Exits 0 where they are identical, 1 where they differ, 2 or more where they cannot be compared.
    """
    from guestctl.cli.output import fail, print_json
    from guestctl.core.errors import GuestctlError
    from guestctl.disk.compare import compare

    try:
        with options.open(first) as left, options.open(second) as right:
            result = compare(left, right, strict=strict)
    except (GuestctlError, OSError) as error:
        fail(error)
        return 2
    if as_json:
        print_json({"identical": result.identical, "offset": result.offset, "message": result.message})
    else:
        print(result.message)
    return 0 if result.identical else 1

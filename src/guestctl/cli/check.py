"""``guestctl check``."""

from __future__ import annotations

import click

from guestctl.cli.options import ImageOptions, image_options, json_option


@click.command("check")
@click.argument("image")
@image_options
@json_option
def command(image: str, options: ImageOptions, as_json: bool) -> int:
    """Check the metadata of IMAGE, as qemu-img check does.

    Exits 0 where all is well, 2 for corruptions, 3 for leaked clusters alone, 63 where the format
    has nothing to check, 1 for any other failure.
    """
    from guestctl.cli.output import fail, print_json, printable
    from guestctl.core.errors import UnsupportedFeature

    with options.open(image, metadata_only=True) as reader:
        try:
            result = reader.check()
        except UnsupportedFeature as error:
            if error.feature != "check":
                raise
            fail(error)
            return 63
    corruptions, leaks = result.get("corruptions", 0), result.get("leaks", 0)
    if as_json:
        print_json(result)
    else:
        if corruptions:
            print(f"{corruptions} errors were found on the image.")
        for name in result.get("damaged-files", ()):
            print(printable(f"{name}: is missing or not as the manifest says"))
        if leaks:
            print(f"{leaks} leaked clusters were found on the image.")
        if not corruptions and not leaks:
            print("No errors were found on the image.")
        if result.get("total-clusters"):
            allocated, total = result.get("allocated-clusters", 0), result["total-clusters"]
            print(f"{allocated}/{total} = {100 * allocated / total:.2f}% allocated")
        if "image-end-offset" in result:
            print(f"Image end offset: {result['image-end-offset']}")
    return 2 if corruptions else 3 if leaks else 1 if result.get("check-errors") else 0

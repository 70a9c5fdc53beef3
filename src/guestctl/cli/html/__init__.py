"""The report as one page for a browser, which needs no other file and no network, and is readable without scripts.

A guest's texts are hostile: they are escaped where the page is put together (`elements`), and a policy lets the
browser run no script and no style but the page's own.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from itertools import starmap
from pathlib import Path

from guestctl.cli.html.elements import Html, element, joined
from guestctl.cli.html.storage import storage_picture
from guestctl.cli.inspect_tables import Table, guest_page, storage_page
from guestctl.detectors.report import Guest, Report

_HERE = Path(__file__).parent
_FILTERED_ROWS = 12  # from so many on a table has a field to filter by
_WIDE = 100  # characters of a fact that take a line of their own
_STORAGE = "storage"
_COLOURS = {
    "alpinelinux": "#0d597f",
    "archlinux": "#1479b0",
    "centos": "#932279",
    "debian": "#a80030",
    "fedora": "#2f5fa5",
    "freebsd": "#a3231f",
    "gentoo": "#54487a",
    "opensuse": "#4a7a14",
    "rhel": "#c00000",
    "sles": "#0c6b4f",
    "ubuntu": "#c34113",
    "windows": "#0067b8",
}


def to_html(report: Report) -> str:
    """The whole page."""
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'"
    titles = [guest.hostname or guest.product_name or guest.root for guest in report.guests]
    title = ", ".join(titles) or ", ".join(Path(image.path).name for image in report.images)
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=f"{policy}; form-action 'none'"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title} · guestctl inspect"),
        element("style", Html(style)),
    )
    body = element(
        "body",
        element("main", *_warnings(report), *starmap(_guest, enumerate(report.guests)), _storage(report)),
        element("footer", f"guestctl {report.guestctl} · {', '.join(image.path for image in report.images)}"),
        element("script", Html(script)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _warnings(report: Report) -> Iterator[Html]:
    warnings = list(report.warnings)
    if not report.guests:
        warnings.insert(0, "No operating system found.")
    if warnings:
        items = [element("li", warning) for warning in warnings]
        yield element("aside", element("h2", "Warnings"), element("ul", *items), class_="warnings")


def _storage(report: Report) -> Html:
    page = storage_page(report)
    tables = [_table(table, None) for table in page.tables]
    return element("article", element("h1", page.title), storage_picture(report), *tables, id=_STORAGE)


def _guest(number: int, guest: Guest) -> Html:
    page = guest_page(guest)
    tables = {f"guest{number}-{at}": table for at, table in enumerate((*page.tables, *_more_tables(guest)))}
    words = [word for word in (guest.hostname, guest.arch, guest.firmware) if word]
    header = element(
        "header",
        _mark(guest),
        element("div", element("h1", page.title), element("p", " · ".join(words))),
        class_="guest",
    )
    links = [element("a", table.title, href=f"#{name}") for name, table in tables.items()]
    links.append(element("a", "Storage", href=f"#{_STORAGE}"))
    facts = [fact for fact in page.facts if guest.details is None or fact[0] != "Services"]  # which are a table then
    body = [_table(table, name) for name, table in tables.items()]
    return element("article", header, _facts(facts), element("nav", *links, aria_label="Tables"), *body)


def _more_tables(guest: Guest) -> Iterator[Table]:
    if guest.details is not None:
        from guestctl.cli.detail_tables import detail_tables

        yield from detail_tables(guest.details)
    if guest.applications and (guest.details is None or guest.details.packages is None):
        header = ("Package", "Version", "Architecture", "Summary")
        rows = [
            (one.display_name or one.name, _version(one.epoch, one.version, one.release), one.arch, one.summary)
            for one in guest.applications
        ]
        yield Table("Packages", header, rows)


def _version(epoch: int, version: str, release: str) -> str:
    return (f"{epoch}:" if epoch else "") + version + (f"-{release}" if release else "")


def _mark(guest: Guest) -> Html:
    """A square with the first letters of the distribution."""
    name = guest.distro or guest.type
    square = element("rect", width=48, height=48, rx=12, fill=_COLOURS.get(name, "#5b6472"))
    letters = element("text", name[:2].capitalize(), x=24, y=31, text_anchor="middle")
    return element("svg", square, letters, viewBox="0 0 48 48", class_="mark", aria_hidden="true")


def _facts(facts: list[tuple[str, str]]) -> Html:
    pairs = [
        element("div", element("dt", name), element("dd", value), class_="wide" if len(value) > _WIDE else None)
        for name, value in facts
    ]
    return element("dl", *pairs)


def _table(table: Table, name: str | None) -> Html:
    def cells(name: str, row: tuple[str, ...], **more: str) -> Html:
        return joined(
            [
                element(name, cell, class_="number" if column in table.right else None, **more)
                for column, cell in enumerate(row)
            ]
        )

    head = element("thead", element("tr", cells("th", table.header, scope="col")))
    body = element("tbody", *(element("tr", cells("td", row)) for row in table.rows))
    count = element("span", str(len(table.rows)), class_="count")
    heading = [element("h2", table.title, " ", count)]
    if len(table.rows) >= _FILTERED_ROWS:
        label = f"Filter {table.title}"
        heading.append(element("input", type="search", placeholder="Filter", aria_label=label, hidden=True))
    scroll = element(
        "div", element("table", head, body), class_="scroll", tabindex=0, role="region", aria_label=table.title
    )
    return element("section", element("div", *heading, class_="heading"), scroll, id=name)

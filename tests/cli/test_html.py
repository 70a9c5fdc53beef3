"""``inspect --html``: what a browser would read out of the page, also where the guest's texts are hostile."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from guestctl.cli import main
from guestctl.cli.html import to_html
from guestctl.cli.html.storage import storage_picture
from guestctl.detectors.report import Application, Filesystem, Guest, Image, Report, User
from guestctl.detectors.report.details import Details
from guestctl.detectors.report.services import Service

DEMO = Path(__file__).resolve().parents[1] / "data" / "debian-12.qcow2"
HOSTILE = (
    "</td></script><script>alert(1)</script><img src=x onerror=alert(1)>\"' onload='x&lt;\x00\x1b[31m\u202egpj\udcff"
)
SHOWN = (
    "</td></script><script>alert(1)</script><img src=x onerror=alert(1)>\"' onload='x&lt;\\x00\\x1b[31m\\u202egpj\\xff"
)
_ELEMENTS = (
    "html head meta title style body main aside article header footer section nav div span p a ul li dl dt dd h1 h2 "
    "table thead tbody tr th td input svg rect text script"
)


class _Page(HTMLParser):
    """What is in a page: elements with their attributes, rows of cells, texts by element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "input"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        self.texts.setdefault(tag, []).append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[self.open[-1]][-1] += data
            if self.open[-1] in ("td", "th"):
                self.rows[-1][-1] += data


def _html(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as exit:
        main(["inspect", *map(str, words)])
    captured = capsys.readouterr()
    assert exit.value.code == 0, captured.err
    return captured.out


def test_demo(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = _html(capsys, "--html", "-", DEMO)
    page = _Page(text)
    (guest,) = json.loads(_html(capsys, "--json", DEMO))["guests"]
    assert guest["product_name"] in page.texts["h1"] and guest["hostname"] in page.texts["dd"]
    assert {one["name"] for one in guest["applications"]} <= {row[0] for row in page.rows}
    assert any(tag == "rect" and attributes.get("class") == "used" for tag, attributes in page.elements)
    assert not _html(capsys, "--html", tmp_path / "page.html", DEMO)
    assert (tmp_path / "page.html").read_text() == text


def test_all_has_every_view(capsys: pytest.CaptureFixture[str]) -> None:
    (guest,) = json.loads(_html(capsys, "--all", "--json", DEMO))["guests"]
    page = _Page(_html(capsys, "--all", "--html", "-", DEMO))
    firsts = {row[0] for row in page.rows}
    for view in ("services", "users", "packages", "network"):
        assert guest["details"][view] and {one["name"] for one in guest["details"][view]} <= firsts, view
    assert {"/boot/efi", "systemd-boot"} <= firsts
    terminal = _html(capsys, "--all", DEMO)
    assert f"Services, the first 15 of {len(guest['details']['services'])}" in terminal
    assert "Boot loaders" in terminal


def test_nothing_from_elsewhere_and_no_script_but_its_own() -> None:
    page = _Page(to_html(Report()))
    (policy,) = [one["content"] for _, one in page.elements if one.get("http-equiv") == "Content-Security-Policy"]
    hashes = [
        "sha256-" + base64.b64encode(hashlib.sha256(page.texts[name][0].encode()).digest()).decode()
        for name in ("style", "script")
    ]
    assert policy == (
        f"default-src 'none'; style-src '{hashes[0]}'; script-src '{hashes[1]}'; base-uri 'none'; form-action 'none'"
    )
    assert not re.search(
        r"url\(|@import|https?:|fetch|innerHTML|eval", page.texts["style"][0] + page.texts["script"][0]
    )
    assert "No operating system found." in page.texts["li"]


def _hostile() -> Report:
    service = Service(name=HOSTILE, kind=HOSTILE, start="enabled", description=HOSTILE)
    guest = Guest(
        root=HOSTILE,
        type="linux",
        distro=HOSTILE,
        product_name=HOSTILE,
        hostname=HOSTILE,
        mountpoints={HOSTILE: HOSTILE},
        users=[User(HOSTILE, 1, 1, HOSTILE, HOSTILE, HOSTILE)],
        applications=[Application(HOSTILE, 0, HOSTILE, HOSTILE, HOSTILE, summary=HOSTILE)],
        details=Details(services=[service]),
    )
    return Report(
        images=[Image(HOSTILE, HOSTILE, "raw", 1 << 30, None)],
        filesystems=[Filesystem("/dev/sda1", "ext4", HOSTILE, HOSTILE, 1 << 20, 1 << 30, (HOSTILE,))],
        guests=[guest],
        warnings=[HOSTILE],
    )


def test_hostile_texts_stay_texts() -> None:
    page = _Page(to_html(_hostile()))
    assert {tag for tag, _ in page.elements} <= set(_ELEMENTS.split())
    assert [tag for tag, _ in page.elements].count("script") == 1
    for tag, attributes in page.elements:
        assert not any(name.startswith("on") or name in ("src", "style") for name in attributes), tag
        assert tag != "a" or str(attributes["href"]).startswith("#")
    assert SHOWN in page.texts["h1"] and SHOWN in page.texts["li"] and SHOWN in page.texts["dd"]
    assert [SHOWN, "1", SHOWN, SHOWN, SHOWN] in page.rows
    assert [SHOWN, SHOWN, "enabled", SHOWN] in page.rows
    assert [SHOWN, f"{SHOWN}-{SHOWN}", SHOWN, SHOWN] in page.rows
    assert SHOWN in page.texts["text"]
    assert set(re.findall("[\0-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]", to_html(_hostile()))) == set()


def _heights(picture: str) -> Iterator[tuple[str, int]]:
    for height, name in re.findall(r'<svg [^>]*height="(\d+)"><rect .*?<title>([^:]*):', picture):
        yield name, int(height)


def test_picture_is_to_scale() -> None:
    sizes = {"/dev/sda1": 1 << 30, "/dev/sda2": 3 << 30, "/dev/sda3": 2 << 30}
    disk = Image("/dev/sda", "disk.raw", "raw", 8 << 30, "gpt")
    filesystems = [Filesystem(name, "ext4", None, None, size, None, ("/dev/sda",)) for name, size in sizes.items()]
    heights = dict(_heights(storage_picture(Report(images=[disk], filesystems=filesystems))))
    assert heights.keys() == {"/dev/sda", *sizes}
    assert sum(heights[name] + 4 for name in sizes) <= heights["/dev/sda"] + 4
    assert heights["/dev/sda1"] <= heights["/dev/sda3"] <= heights["/dev/sda2"]
    larger = [one for one in filesystems if one.device != "/dev/sda1"]
    heights = dict(_heights(storage_picture(Report(images=[disk], filesystems=larger))))
    assert (heights["/dev/sda2"] + 4) / (heights["/dev/sda"] + 4) == pytest.approx(3 / 8, abs=0.01)


def test_picture_is_bounded() -> None:
    disk = Image("/dev/sda", "disk.raw", "raw", 0, "gpt")
    many = [Filesystem(f"/dev/sda{number}", "ext4", None, None, 0, 9, ("/dev/sda",)) for number in range(5000)]
    chain = [Filesystem(f"/dev/mapper/{n}", "ext4", None, None, 1, 0, (f"/dev/mapper/{n + 1}",)) for n in range(500)]
    loop = [
        Filesystem("/dev/a", "ext4", None, None, 1, 0, ("/dev/b",)),
        Filesystem("/dev/b", "x", "", "", 1, 0, ("/dev/a",)),
    ]
    picture = storage_picture(Report(images=[disk], filesystems=[*many, *chain, *loop]))
    assert picture.count("<rect") < 1000
    assert f"and {5000 + 500 + 2 - 199} devices more" in picture

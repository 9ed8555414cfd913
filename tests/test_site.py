"""The site builds without a warning, loads nothing from elsewhere, and leaves nothing out."""

from __future__ import annotations

import html.parser
import re
import urllib.parse

import pytest

pytest.importorskip("griffe", reason="needs nomina[docs], Python 3.11")
pytest.importorskip("zensical", reason="needs nomina[docs], Python 3.11")

import docs_site
from test_snippets import all_options

import nomina
from nomina.cli import app


@pytest.fixture(scope="module")
def site():
    docs_site.write_pages(docs_site.PAGES)
    assert docs_site.build() == 0
    return docs_site.ROOT / "site"


class Page(html.parser.HTMLParser):
    """What a page names: addresses it loads, addresses it links to, places to link to."""

    def __init__(self, path):
        super().__init__()
        self.loads, self.links, self.ids = [], [], set()
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids.add(found.get("id"))
        if "src" in found or (tag == "link" and "href" in found):
            self.loads.append(found.get("src") or found.get("href"))
        elif tag == "a" and "href" in found:
            self.links.append(found["href"])


def test_nothing_is_loaded_from_elsewhere(site):
    for path in site.rglob("*.html"):
        page = Page(path)
        assert page.loads, path
        assert [x for x in page.loads if re.match(r"(https?:)?//", x)] == [], path
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import )[\"']?(https?:)?//", path.read_text("utf-8")), path


def test_links_lead_somewhere(site):
    pages = {path.name: Page(path) for path in site.glob("*.html") if path.name != "404.html"}
    assert len(pages) == len(list(docs_site.PAGES.glob("*.md")))
    for name, page in pages.items():
        for link in page.links:
            if re.match(r"\w+:", link):
                continue
            target, _, place = urllib.parse.unquote(link).partition("#")
            target = target.removeprefix("./") or name
            target = "index.html" if target in (".", "..") else target
            assert (site / target).exists(), (name, link)
            if place and target in pages:
                assert place in pages[target].ids, (name, link)


def test_every_page_is_in_the_menu(site):
    menu = (docs_site.ROOT / "zensical.toml").read_text("utf-8")
    for path in docs_site.PAGES.glob("*.md"):
        assert f'"{path.name}"' in menu


def test_every_command_and_option_is_described(site):
    text = (docs_site.PAGES / "cli.md").read_text("utf-8")
    for command in app.registered_commands:
        assert f"## `nomina {command.name}`" in text
    assert [x for x in all_options() if not re.search(rf"^\* `(.* / )?{x}[ `]", text, re.M)] == []


def test_every_error_is_described(site):
    text = (docs_site.PAGES / "errors.md").read_text("utf-8")
    todo = [nomina.NominaError]
    while todo:
        error = todo.pop()
        todo += error.__subclasses__()
        if error.__module__.startswith("nomina."):
            assert f"{error.__name__}`" in text
            assert error.__doc__.split("\n")[0].rstrip(".") in text


def test_every_public_name_is_described(site):
    text = (docs_site.PAGES / "api.md").read_text("utf-8")
    for name in nomina.__all__:
        if not name.startswith("_") and not name.endswith("Error"):
            assert f"### `nomina.{name}`" in text
    assert "doctest" not in text

import html.parser
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nomina.documents import Document, documents_to_html, label_colors, visible
from nomina.entities import Entity, Example, LabelSet
from nomina.errors import DataError

TEXT = "george <b>clooney</b> & 東京\r\nin 1980s"
DOC = Document(
    TEXT,
    (Entity(TEXT[:6], "actor", 0, 6, 0.97), Entity(TEXT[24:26], 'a "city"', 24, 26, 0.4)),
    ("3 characters were not labelled",),
)


class Reader(html.parser.HTMLParser):
    """Reads a page back: the text outside of label names, and what is marked."""

    def __init__(self, page):
        super().__init__()
        self.text, self.marks, self.stack, self.tags = "", [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in ("meta", "input"):
            return
        self.stack.append((tag, dict(attrs)))
        if tag == "mark":
            self.marks.append([dict(attrs), ""])

    def handle_endtag(self, tag):
        assert self.stack.pop()[0] == tag, "the page is well formed"

    def handle_data(self, data):
        names = [tag for tag, attrs in self.stack]
        is_text = any(attrs.get("class") == "text" for _, attrs in self.stack)
        if is_text and "small" not in names:
            self.text += data
            if "mark" in names:
                self.marks[-1][1] += data


def test_terminal_shows_entities_in_place_and_named():
    shown = DOC.to_rich(scores=True)
    assert 'george actor 0.97 <b>clooney</b> & 東京 a "city" 0.40\nin 1980s' in shown.plain
    assert DOC.to_rich().plain.startswith("george actor <b>")
    colors = {str(span.style) for span in shown.spans}
    assert len(colors) == 4  # two labels, each with surface and name


def test_rich_prints_a_document_with_its_warnings():
    from rich.console import Console

    console = Console(width=60, force_terminal=True, color_system="truecolor", record=True)
    with console.capture() as capture:
        console.print(DOC)
    assert "warning: 3 characters were not labelled" in capture.get().replace("\x1b[33m", "")
    assert "\x1b[" in capture.get()


def test_a_text_cannot_steer_the_terminal():
    assert visible("a\x1b]0;x\x07\x9bb") == "a␛]0;x␇\ufffdb"
    assert "\x1b" not in Document("a\x1b[31m").to_rich().plain


def test_page_holds_text_marks_counts_and_filters():
    labels = LabelSet.of({"actor": {"definition": "plays", "color": "#ff0000"}, "year": ""})
    page = DOC.to_html(labels, title="my <page>")
    reader = Reader(page)
    assert reader.text == TEXT.replace("\r\n", "\n")
    assert [(m["data-label"], m["data-score"], text) for m, text in reader.marks] == [
        ("actor", "0.9700", "george"),
        ('a "city"', "0.4000", "東京"),
    ]
    assert "--c:#ff0000" in reader.marks[0][0]["style"]
    boxes = [a["data-label"] for tag, a in reader.tags if a.get("type") == "checkbox"]
    assert boxes == ["actor", "year", 'a "city"']  # a label that was not found is named too
    assert 'title="plays"' in page
    assert 'type="range"' in page
    assert "3 characters were not labelled" in page
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert "<title>my &lt;page&gt;</title>" in page


def test_page_needs_nothing_else():
    assert not re.search(r"https?://|src=|@import|url\(", DOC.to_html())


def test_page_without_scores_has_no_slider():
    assert 'type="range"' not in Document("a", (Entity("a", "x", 0, 1),)).to_html()


def test_many_documents_in_one_page():
    page = documents_to_html([DOC, Document("nothing here"), DOC])
    reader = Reader(page)
    assert len(reader.marks) == 4
    assert '<article id="d3">' in page
    assert '<span id="shown">4</span> of 4 entities' in page


def test_notebook_view_has_no_script():
    shown = DOC._repr_html_()
    assert Reader(shown).text == TEXT.replace("\r\n", "\n")
    assert "<script" not in shown


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=60)
@given(st.text(max_size=30), st.text(min_size=1, max_size=8), st.data())
def test_any_text_and_label_is_shown_as_text(text, label, data):
    start = data.draw(st.integers(0, max(0, len(text) - 1)))
    end = data.draw(st.integers(start + 1, len(text))) if text else 0
    entities = (Entity(text[start:end], label, start, end, 0.5),) if text else ()
    reader = Reader(Document(text, entities).to_html())
    assert reader.text == visible(text)
    assert not reader.stack
    assert [m["data-label"] for m, _ in reader.marks] == [visible(label)] * len(entities)


def test_colors_are_stable_and_differ():
    names = [f"label {i}" for i in range(12)]
    assert len(set(label_colors(names).values())) == 12
    some = label_colors(["b"], LabelSet.of(["a", "b"]))
    assert some["b"] == label_colors(["b", "a"], LabelSet.of(["a", "b"]))["b"]
    odd = LabelSet.of({"x": {"color": "red;} body{display:none"}, "y": {"color": "rebeccapurple"}})
    doc = Document("ab", (Entity("a", "x", 0, 1), Entity("b", "y", 1, 2)))
    assert "display:none}" not in doc.to_html(odd).replace(" ", "").split("</style>")[1]
    assert doc.to_rich(odd).plain == "a xb y"


def test_displacy_of_the_real_spacy():
    spacy = pytest.importorskip("spacy")
    page = spacy.displacy.render(DOC.to_displacy(), style="ent", manual=True, page=False)
    assert "george" in page
    assert "actor" in page.lower()


def test_dict_round_trip():
    example = Example.from_entities("in Paris", [Entity("Paris", "city", 3, 8)])
    doc = Document(example.text, tuple(example.entities()), ("w",))
    assert Document.from_dict(doc.to_dict()) == doc
    assert len(doc) == 1


def test_entities_that_overlap_repeat_no_text():
    entities = (Entity("cdef", "y", 2, 6), Entity("abcd", "x", 0, 4), Entity("d", "z", 3, 4))
    doc = Document("abcdef", entities)
    assert doc.to_rich().plain == "abcd xef y z"
    assert re.sub(r"<small>.*?</small>|<[^>]*>", "", doc._repr_html_()).endswith("abcdef")


@pytest.mark.parametrize(
    "record", [{}, {"text": "a", "entities": None}, {"text": "a", "entities": [{"kind": "b"}]}, 3]
)
def test_what_is_no_document_is_named(record):
    with pytest.raises(DataError, match="expected a dict with `text`"):
        Document.from_dict(record)


def test_labels_of_a_page_may_be_names_and_its_title_anything():
    page = Document("a", (Entity("a", "x\ud800", 0, 1),)).to_html(["y"], title="\ud800\0")
    assert "\ud800" not in page
    assert "\0" not in page
    assert "<b>y</b>" in page

"""A text with the entities found in it, and the ways people look at one.

In the terminal the entities are coloured in place (`to_rich`), in a notebook and in a browser they
are marked in a page that needs nothing else (`to_html`). Knows nothing of models; works for gold
and predicted entities alike.
"""

from __future__ import annotations

import colorsys
import html
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nomina.entities import Entity, Labels, LabelSet
from nomina.errors import DataError

if TYPE_CHECKING:
    from rich.text import Text


@dataclass(frozen=True)
class Document:
    """What `tagger(text, labels)` returns.

    Attributes:
        text: The input, unchanged.
        entities: Entities sorted by offset, not overlapping; `text[e.start:e.end] == e.text`.
        warnings: What a user should know: characters that no word of an `Example` covers and that
            were therefore not labelled, words that the model's vocabulary cannot spell, entities
            that reach the end of what the model was shown, a prompt longer than the model was made
            for. Empty if there is nothing of the kind; a string is always labelled to its end.

    Example:
        >>> doc = Document("in Paris", (Entity("Paris", "city", 3, 8, 0.9),))
        >>> [entity.text for entity in doc]
        ['Paris']
    """

    text: str
    entities: tuple[Entity, ...] = ()
    warnings: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.entities)

    def __iter__(self) -> Iterator[Entity]:
        return iter(self.entities)

    def to_dict(self) -> dict[str, Any]:
        """Return the document as a JSON-ready dict with `text`, `entities` and `warnings`."""
        return {
            "text": self.text,
            "entities": [entity.to_dict() for entity in self.entities],
            "warnings": list(self.warnings),
        }

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> Document:
        """Build a document from what `to_dict` returned; scores have four digits there.

        Raises:
            DataError: If it is something else.

        Example:
            >>> doc = Document("in Paris", (Entity("Paris", "city", 3, 8, 0.9),))
            >>> Document.from_dict(doc.to_dict()) == doc
            True
        """
        try:
            return Document(
                record["text"],
                tuple(Entity(**entity) for entity in record.get("entities", ())),
                tuple(record.get("warnings", ())),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                "expected a dict with `text`, `entities` (each with text, label, start, end and "
                f"score) and `warnings`, as `to_dict` gives it, was: {record!r:.200}"
            ) from error

    def to_displacy(self) -> dict[str, Any]:
        """Return the document as spaCy's displaCy renders it by hand.

        Example:
            >>> Document("in Paris", (Entity("Paris", "city", 3, 8, 0.9),)).to_displacy()["ents"]
            [{'start': 3, 'end': 8, 'label': 'city'}]

        `displacy.render(doc.to_displacy(), style="ent", manual=True)` shows it.
        """
        ents = [{"start": e.start, "end": e.end, "label": e.label} for e in self.entities]
        return {"text": self.text, "ents": ents, "title": None}

    def to_rich(self, labels: Labels | None = None, scores: bool = False) -> Text:
        """Return the text with its entities coloured in place, each followed by its label.

        The label is written out, not only coloured, so that nothing is lost without colours.

        Args:
            labels: Where colours are looked up. Defaults to automatic ones.
            scores: Whether each label is followed by its score.

        Example:
            >>> Document("in Paris.", (Entity("Paris", "city", 3, 8, 0.9),)).to_rich().plain
            'in Paris city.'
        """
        from rich.style import Style
        from rich.text import Text

        colors = label_colors((e.label for e in self.entities), labels)
        shown = Text()
        position = 0
        for entity in sorted(self.entities, key=_place):
            shown.append(visible(self.text[position : entity.start]))
            color = _terminal_color(colors[entity.label])
            shown.append(
                visible(self.text[max(position, entity.start) : entity.end]),
                Style(color=color, bold=True),
            )
            score = f" {entity.score:.2f}" if scores else ""
            shown.append(f" {entity.label}{score}", Style(color=color, dim=True, italic=True))
            position = max(position, entity.end)  # gold may overlap: no text is shown twice
        shown.append(visible(self.text[position:]))
        return shown

    def __rich__(self) -> Text:
        shown = self.to_rich()
        for warning in self.warnings:
            shown.append(f"\nwarning: {visible(warning)}", "yellow")
        return shown

    def to_html(self, labels: Labels | None = None, title: str = "nomina") -> str:
        """Return a page that needs nothing else; see `documents_to_html`."""
        return documents_to_html([self], labels, title=title)

    def _repr_html_(self) -> str:
        """Show the document in a notebook: marks and counts, without scripts."""
        colors = label_colors((e.label for e in self.entities), None)
        legend, body = _legend(colors, [self]), _body(self, colors)
        return f'<div class="nomina"><style>{_CSS}</style>{legend}{body}</div>'


def visible(text: str) -> str:
    r"""Return text with control characters made visible, so that it cannot steer a terminal.

    Example:
        >>> visible("a\x1b[31mb\n")
        'a␛[31mb\n'
    """
    return text.replace("\r\n", "\n").translate(_VISIBLE)


_VISIBLE = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
_VISIBLE |= {code: 0xFFFD for code in range(0x80, 0xA0)}


# --------------------------------------------------------------------------------------------------
# Colours


def label_colors(names: Iterable[str], labels: Labels | None = None) -> dict[str, str]:
    """Give every label a colour: its own, else one that differs from its neighbours.

    Labels of the set come first and in order, so that the same set always has the same colours.

    Args:
        names: Labels in use; repeats are fine.
        labels: The label set, whose colours are respected.

    Example:
        >>> label_colors(["city"], LabelSet.of({"city": {"color": "#ff0000"}}))
        {'city': '#ff0000'}
    """
    own = {x.name: x.color for x in LabelSet.of(labels)} if labels is not None else {}
    colors: dict[str, str] = {}
    for name in dict.fromkeys([*own, *names]):
        colors[name] = own.get(name) or _automatic_color(len(colors))
    return colors


def _automatic_color(index: int) -> str:
    # Steps of the golden angle keep any number of hues apart
    hue = (0.58 + index * 0.618034) % 1.0
    red, green, blue = colorsys.hls_to_rgb(hue, 0.5 - 0.08 * (index // 8 % 2), 0.65)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def _terminal_color(color: str) -> str:
    from rich.color import Color, ColorParseError

    if len(color) == 4 and color[0] == "#":
        color = "#" + "".join(c * 2 for c in color[1:])
    try:
        Color.parse(color)
    except ColorParseError:  # CSS knows more names than terminals do
        return "cyan"
    return color


# --------------------------------------------------------------------------------------------------
# HTML


def documents_to_html(
    documents: Sequence[Document], labels: Labels | None = None, title: str = "nomina"
) -> str:
    """Return one page with all documents that needs nothing else: no network, no other file.

    It has a legend with counts, filters by label and by score, follows the reader's light or dark
    mode, and prints. Without scripts everything is still shown.

    Args:
        documents: What to show.
        labels: Where colours and definitions are looked up, and which labels the legend names even
            if they were not found.
        title: Title of the page.

    Example:
        >>> page = documents_to_html([Document("in Paris", (Entity("Paris", "city", 3, 8, 0.9),))])
        >>> '<mark data-label="city" data-score="0.9000"' in page
        True
    """
    label_set = None if labels is None else LabelSet.of(labels)
    colors = label_colors((e.label for d in documents for e in d.entities), label_set)
    definitions = {x.name: x.definition for x in label_set or ()}
    bodies = "\n".join(
        f'<article id="d{number}">'
        + (f"<h2>{number}</h2>" if len(documents) > 1 else "")
        + f"{_body(document, colors)}</article>"
        for number, document in enumerate(documents, start=1)
    )
    scores = [e.score for d in documents for e in d.entities]
    slider = (
        '<label class="score">score at least <input type="range" id="score" min="0" max="1" '
        'step="0.01" value="0"><output id="least">0.00</output></label>'
        if any(score < 1 for score in scores)
        else ""
    )
    total = f'<span id="shown">{len(scores)}</span> of {len(scores)} entities'
    return (
        '<!doctype html>\n<html lang="und">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escape(title)}</title>\n<style>{_CSS}{_PAGE_CSS}</style>\n</head>\n"
        f'<body class="nomina">\n<header><h1>{_escape(title)}</h1>'
        f"{_legend(colors, documents, definitions)}"
        f'<p class="tools">{slider} <span>{total}</span></p></header>\n'
        f"<main>\n{bodies}\n</main>\n<script>{_SCRIPT}</script>\n</body>\n</html>\n"
    )


def _legend(
    colors: Mapping[str, str],
    documents: Sequence[Document],
    definitions: Mapping[str, str] | None = None,
) -> str:
    counts = Counter(e.label for d in documents for e in d.entities)
    items = []
    for name, color in colors.items():
        definition = (definitions or {}).get(name, "")
        tip = f' title="{_attribute(definition)}"' if definition else ""
        items.append(
            f'<label {_color(color)}{tip}><input type="checkbox" data-label="{_attribute(name)}" '
            f"checked><b>{_escape(name)}</b> <span>{counts[name]}</span></label>"
        )
    return f'<p class="legend">{" ".join(items)}</p>' if items else ""


def _body(document: Document, colors: Mapping[str, str]) -> str:
    parts = []
    position = 0
    text = document.text
    for entity in sorted(document.entities, key=_place):
        parts.append(_escape(text[position : entity.start]))
        label = _attribute(entity.label)
        color = _color(colors[entity.label])
        parts.append(
            f'<mark data-label="{label}" data-score="{entity.score:.4f}" {color} '
            f'title="{label}, {entity.score:.2f}, {entity.start} to {entity.end}">'
            f"{_escape(text[max(position, entity.start) : entity.end])}"
            f"<small>{_escape(entity.label)}</small></mark>"
        )
        position = max(position, entity.end)
    parts.append(_escape(text[position:]))
    warnings = "".join(f"<li>{_escape(warning)}</li>" for warning in document.warnings)
    notes = f'<ul class="warnings">{warnings}</ul>' if warnings else ""
    return f'<div class="text" dir="auto">{"".join(parts)}</div>{notes}'


def _place(entity: Entity) -> tuple[int, int]:
    return entity.start, -entity.end


def _escape(text: str) -> str:
    # Control characters and half surrogates are not allowed in HTML, or in UTF-8
    return html.escape(visible(text).encode("utf-8", "replace").decode("utf-8"), quote=False)


def _attribute(text: str) -> str:
    return html.escape(visible(text).encode("utf-8", "replace").decode("utf-8"), quote=True)


def _color(color: str) -> str:
    # Inline, so that two documents in one notebook do not colour each other
    return f'style="--c:{color if color.replace("#", "", 1).isalnum() else "gray"}"'


_CSS = """
.nomina { --ink: #1b1b1f; --paper: #fff; --line: #d5d5dc; --mix: 24%; color-scheme: light dark;
  color: var(--ink); background: var(--paper); font: 16px/1.7 system-ui, sans-serif }
@media (prefers-color-scheme: dark) {
  .nomina { --ink: #e6e6ea; --paper: #17171b; --line: #3a3a42; --mix: 40% } }
.nomina .text { white-space: pre-wrap; overflow-wrap: anywhere }
.nomina mark { color: inherit; border-radius: .3em; padding: .1em .25em;
  border-bottom: 2px solid var(--c, gray);
  background: color-mix(in srgb, var(--c, gray) var(--mix), transparent);
  box-decoration-break: clone; -webkit-box-decoration-break: clone }
.nomina mark small { font-size: .7em; font-weight: 600; margin-inline-start: .45em; opacity: .8;
  user-select: none }
.nomina mark.off { background: none; border: 0; padding: 0 }
.nomina mark.off small { display: none }
.nomina .legend { margin: 0 0 .8em; display: flex; flex-wrap: wrap; gap: .4em }
.nomina .legend label { border: 1px solid var(--line); border-inline-start: .5em solid var(--c);
  border-radius: .3em; padding: 0 .5em; font-size: .85em }
.nomina .legend input { display: none }
.nomina .warnings { font-size: .85em; color: #b36b00 }
"""
_PAGE_CSS = """
body.nomina { margin: 0 auto; max-width: 60rem; padding: 1rem }
.nomina header { position: sticky; top: 0; background: var(--paper); padding: .5rem 0;
  border-bottom: 1px solid var(--line); z-index: 1; max-height: 40vh; overflow: auto }
.nomina h1 { font-size: 1.2rem; margin: 0 0 .5rem } .nomina h2 { font-size: .9rem; opacity: .6 }
.nomina article { padding: 1rem 0; border-bottom: 1px solid var(--line) }
.nomina .legend input { display: inline } .nomina .tools { font-size: .85em; margin: 0 }
.nomina .score { margin-inline-end: 1em } .nomina .score input { vertical-align: middle }
@media print { .nomina { --ink: #000; --paper: #fff; --line: #bbb; --mix: 18% }
  .nomina header { position: static; max-height: none }
  .nomina .legend input, .score { display: none }
  .nomina article { break-inside: avoid-page }
  .nomina mark { print-color-adjust: exact; -webkit-print-color-adjust: exact } }
"""
_SCRIPT = """
(() => {
  const marks = [...document.querySelectorAll("mark")];
  const boxes = [...document.querySelectorAll(".legend input")];
  const slider = document.getElementById("score");
  const update = () => {
    const on = new Set(boxes.filter(b => b.checked).map(b => b.dataset.label));
    const least = slider ? +slider.value : 0;
    const counts = new Map();
    let shown = 0;
    for (const m of marks) {
      const is_on = on.has(m.dataset.label) && +m.dataset.score >= least;
      m.classList.toggle("off", !is_on);
      shown += is_on;
      if (+m.dataset.score >= least)
        counts.set(m.dataset.label, (counts.get(m.dataset.label) || 0) + 1);
    }
    for (const b of boxes)
      b.parentElement.querySelector("span").textContent = counts.get(b.dataset.label) || 0;
    document.getElementById("shown").textContent = shown;
    if (slider) document.getElementById("least").textContent = least.toFixed(2);
  };
  for (const b of [...boxes, ...(slider ? [slider] : [])]) b.addEventListener("input", update);
})();
"""

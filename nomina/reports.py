"""One HTML page about a run: scores, errors and calibration, with plots, and nothing to fetch.

Everything is inline: style, SVG plots, no scripts, no fonts, no links to other hosts. Also the
tables for a terminal. Knows nothing of how the figures came about.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nomina.analysis import NOTHING, OUTCOMES, Analysis
from nomina.evaluation import Evaluation, Score

if TYPE_CHECKING:
    from rich.table import Table

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #667085; --line: #d5dae3; --paper: #fff;
  --accent: #2463c4; --good: #1d8a55; --bad: #c43d3d; --tint: 36, 99, 196; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8f0; --soft: #98a2b3; --line: #394252;
  --paper: #12161d; --accent: #6ea3f2; --good: #57c78f; --bad: #f08080; --tint: 110, 163, 242; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  max-width: 62rem; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.6rem; margin-bottom: .2rem; } h2 { margin-top: 2.4rem; font-size: 1.2rem;
  border-bottom: 1px solid var(--line); padding-bottom: .3rem; } h3 { font-size: 1rem; }
p.note { color: var(--soft); margin: .3rem 0 1rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .7rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child, td.text { text-align: left; } th { color: var(--soft);
  font-weight: 600; } td.text { max-width: 34rem; }
svg { max-width: 100%; height: auto; }
svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg .soft { fill: var(--soft); } svg .axis { stroke: var(--line); fill: none; }
svg .line { stroke: var(--accent); fill: none; stroke-width: 2; } svg .bar { fill: var(--accent); }
svg .faint { stroke: var(--soft); stroke-dasharray: 4 4; fill: none; }
svg .whisker { stroke: var(--ink); stroke-width: 1.5; }
svg .cell { fill: rgb(var(--tint)); } mark { color: inherit; border-radius: 3px; padding: 0 .2em; }
mark.gold { background: color-mix(in srgb, var(--good) 28%, transparent); }
mark.have { background: color-mix(in srgb, var(--bad) 28%, transparent); }
.plots { display: flex; flex-wrap: wrap; gap: 1.5rem; } figure { margin: 0; }
figcaption { color: var(--soft); font-size: .9rem; } small { color: var(--soft); }
"""

_EXPLAINED = {
    "correct": "right position and label",
    "label": "right position, wrong label",
    "boundary": "right label, wrong borders",
    "both": "overlapping, wrong label and borders",
    "missed": "gold entities that nothing was predicted for",
    "invented": "predicted where there is nothing",
}


def render_html(
    title: str,
    evaluation: Evaluation,
    analysis: Analysis,
    calibration: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Render a run as one self-contained page.

    Args:
        title: What was evaluated.
        evaluation: Scores of each corpus.
        analysis: Errors over all corpora.
        calibration: From `calibration.summarize`, if entities have scores.
        notes: Lines to show as they are: settings, what was odd about the data.
    """
    parts = [
        f"<h1>{_text(title)}</h1>",
        '<p class="note">Intervals are 95 % bootstrap intervals over sentences.</p>',
        *_section("Scores", _scores(evaluation)),
        *_section("Labels", [_score_table("label", analysis.by_label)]),
        *_section("What goes wrong", _errors(analysis)),
        *_section("Examples", _cases(analysis)),
    ]
    if calibration:
        parts += _section("Scores of entities as probabilities", _calibration(calibration))
    if notes:
        items = "".join(f"<li>{_text(note)}</li>" for note in notes)
        parts += _section("Notes", [f"<ul>{items}</ul>"])
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _text(value: object) -> str:
    return html.escape(str(value))


def _section(name: str, parts: Iterable[str]) -> list[str]:
    return [f"<h2>{_text(name)}</h2>", *parts]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int = 1) -> str:
    """Build a table; cells are HTML already."""
    out = ["<div class=scroll><table><tr>", *(f"<th>{_text(name)}</th>" for name in head), "</tr>"]
    for row in rows:
        cells = (
            f'<td class="text">{cell}</td>' if index < text_columns else f"<td>{cell}</td>"
            for index, cell in enumerate(row)
        )
        out.append(f"<tr>{''.join(cells)}</tr>")
    return "".join([*out, "</table></div>"])


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _score_row(name: str, score: Score) -> list[str]:
    figures = (score.precision, score.recall, score.f1)
    return [_text(name), *map(_percent, figures), str(score.support)]


def _score_table(what: str, scores: Mapping[str, Score]) -> str:
    head = [what, "precision", "recall", "F1", "support"]
    return _table(head, (_score_row(name, score) for name, score in scores.items()))


def _scores(evaluation: Evaluation) -> list[str]:
    out = []
    for metric, average in evaluation.average.items():
        rows = {name: scores[metric] for name, scores in evaluation.corpora.items()}
        if len(rows) > 1:
            rows["average"] = average
        table = _table(
            [metric, "precision", "recall", "F1", "95 % interval", "support"],
            (
                [
                    *_score_row(name, score)[:4],
                    f"{_percent(score.low)} to {_percent(score.high)}",
                    str(score.support),
                ]
                for name, score in rows.items()
            ),
        )
        out += [f"<h3>{_text(metric)}</h3>", _bars(rows, has_whiskers=True), table]
    return out


def _errors(analysis: Analysis) -> list[str]:
    total = max(1, analysis.outcomes.total())
    outcomes = _table(
        ["class", "entities", "share", "what it is"],
        (
            [
                name,
                str(analysis.outcomes[name]),
                f"{100 * analysis.outcomes[name] / total:.1f} %",
                _EXPLAINED[name],
            ]
            for name in OUTCOMES
        ),
    )
    out = [outcomes]
    if analysis.boundaries:
        kinds = ", ".join(f"{name} {n}" for name, n in analysis.boundaries.most_common())
        out.append(f'<p class="note">Wrong borders: {_text(kinds)}.</p>')
    if analysis.confusions:
        out += ["<h3>Labels taken for each other</h3>", _heat_map(analysis)]
    if analysis.by_length:
        out += [
            "<h3>F1 by length in words</h3>",
            _bars(analysis.by_length),
            _score_table("words", analysis.by_length),
        ]
    if analysis.by_seen:
        out += ["<h3>Labels seen in training</h3>", _score_table("labels", analysis.by_seen)]
    for name, rows in analysis.frequent.items():
        if rows:
            body = ([_text(text), _text(label), str(n)] for text, label, n in rows)
            out += [f"<h3>Most often {name}</h3>", _table(["text", "label", "times"], body, 2)]
    return out


def _cases(analysis: Analysis) -> list[str]:
    out = []
    for name, cases in analysis.cases.items():
        rows = []
        for case in cases:
            gold = f'<mark class="gold">{_text(case.gold)}</mark>' if case.gold else "–"
            have = f'<mark class="have">{_text(case.predicted)}</mark>' if case.predicted else "–"
            inside = gold if case.gold else have
            rows.append(
                [
                    f"{_text(case.before)} {inside} {_text(case.after)}",
                    f"{gold} <small>{_text(case.gold_label)}</small>",
                    f"{have} <small>{_text(case.predicted_label)}</small>",
                    f"<small>{_text(case.corpus)} {_text(case.id)}</small>",
                ]
            )
        out += [
            f"<h3>{name}: {_EXPLAINED[name]}</h3>",
            _table(["sentence", "gold", "predicted", "where"], rows, 3),
        ]
    return out


def _calibration(summary: Mapping[str, Any]) -> list[str]:
    best = summary["best_threshold"]
    lines = (
        f"{summary['scored']} entities with a score; expected calibration error "
        f"{100 * summary['ece']:.2f} %, Brier score {summary['brier']:.4f}, area under "
        f"risk-coverage {summary['area_under_risk']:.4f}. Best strict F1 {_percent(best['f1'])} at "
        f"threshold {best['threshold']:.3f}."
    )
    if fitted := summary.get("temperature"):
        lines += (
            f" A temperature of {fitted['temperature']:.3f} fitted on these very entities brings "
            f"the calibration error to {100 * fitted['ece_after']:.2f} %."
        )
    cuts = summary["cuts"]
    plots = [
        _reliability_plot(summary["reliability"]),
        _line_plot("F1 against threshold", "threshold", [(c["threshold"], c["f1"]) for c in cuts]),
        _line_plot("Risk against coverage", "coverage", [(c["coverage"], c["risk"]) for c in cuts]),
    ]
    return [f"<p>{_text(lines)}</p>", f'<div class="plots">{"".join(plots)}</div>']


# --------------------------------------------------------------------------------------------------
# Plots


def _svg(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{_text(title)}"><title>{_text(title)}</title>{"".join(parts)}</svg>'
    )


def _bars(scores: Mapping[str, Score], *, has_whiskers: bool = False) -> str:
    left, right, row = 170, 620, 22
    height = row * len(scores) + 24
    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x = left + tick * (right - left)
        parts.append(f'<path class="axis" d="M{x:.0f} 4V{height - 18}"/>')
        parts.append(
            f'<text class="soft" x="{x:.0f}" y="{height - 4}" text-anchor="middle">'
            f"{100 * tick:.0f}</text>"
        )
    for index, (name, score) in enumerate(scores.items()):
        y = 6 + index * row
        end = left + score.f1 * (right - left)
        shown = name if len(name) <= 24 else name[:23] + "…"
        parts.append(
            f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{_text(shown)}</text>'
            f'<rect class="bar" x="{left}" y="{y}" width="{end - left:.1f}" height="15" rx="2">'
            f"<title>{_text(name)}: {_percent(score.f1)}</title></rect>"
        )
        if has_whiskers:
            low, high = (left + edge * (right - left) for edge in (score.low, score.high))
            parts.append(f'<path class="whisker" d="M{low:.1f} {y + 7.5}H{high:.1f}"/>')
        parts.append(f'<text x="{right + 10}" y="{y + 12}">{_percent(score.f1)}</text>')
    return _svg(right + 60, height, "F1 in percent", parts)


def _heat_map(analysis: Analysis, max_labels: int = 16) -> str:
    """Gold labels down, predicted labels across, the labels with most confusions first."""
    weight: dict[str, int] = {}
    for pair, count in analysis.confusions.items():
        for label in pair:
            if label != NOTHING:
                weight[label] = weight.get(label, 0) + count
    labels = [*sorted(weight, key=lambda name: (-weight[name], name))[:max_labels], NOTHING]
    cell, left, top = 34, 190, 130
    most = max(
        (n for (g, p), n in analysis.confusions.items() if g in labels and p in labels), default=1
    )
    parts = []
    for index, name in enumerate(labels):
        shown = name if len(name) <= 24 else name[:23] + "…"
        at = index * cell + cell / 2
        parts.append(
            f'<text x="{left - 8}" y="{top + at + 4:.0f}" text-anchor="end">{_text(shown)}</text>'
            f'<text transform="translate({left + at + 4:.0f} {top - 8}) rotate(-50)">'
            f"{_text(shown)}</text>"
        )
    for row, gold in enumerate(labels):
        for column, predicted in enumerate(labels):
            x, y = left + column * cell, top + row * cell
            parts.append(f'<rect class="axis" x="{x}" y="{y}" width="{cell}" height="{cell}"/>')
            if count := analysis.confusions[gold, predicted]:
                opacity = 0.15 + 0.75 * count / most
                parts.append(
                    f'<rect class="cell" x="{x}" y="{y}" width="{cell}" height="{cell}" '
                    f'fill-opacity="{opacity:.2f}"><title>{_text(gold)} → {_text(predicted)}: '
                    f'{count}</title></rect><text x="{x + cell / 2:.0f}" y="{y + cell / 2 + 4:.0f}"'
                    f' text-anchor="middle">{count}</text>'
                )
    size = cell * len(labels)
    caption = "Gold label down, predicted across; (nothing): missed and invented entities"
    return _figure(_svg(left + size + 90, top + size + 8, caption, parts), caption)


def _figure(plot: str, caption: str) -> str:
    return f"<figure>{plot}<figcaption>{_text(caption)}</figcaption></figure>"


def _frame(x_name: str) -> tuple[list[str], Any]:
    size, left, top = 240, 34, 8

    def place(x: float, y: float) -> str:
        return f"{left + x * size:.1f} {top + (1 - y) * size:.1f}"

    parts = [f'<path class="axis" d="M{place(0, 1)}L{place(0, 0)}L{place(1, 0)}"/>']
    for tick in (0, 0.5, 1):
        x, y = place(tick, 0).split()
        parts.append(
            f'<text class="soft" x="{x}" y="{float(y) + 15:.0f}" text-anchor="middle">{tick}</text>'
        )
        x, y = place(0, tick).split()
        parts.append(
            f'<text class="soft" x="{left - 6}" y="{float(y) + 4:.0f}" text-anchor="end">'
            f"{tick}</text>"
        )
    parts.append(
        f'<text class="soft" x="{left + size / 2}" y="{top + size + 30}" text-anchor="middle">'
        f"{_text(x_name)}</text>"
    )
    return parts, place


def _line_plot(title: str, x_name: str, points: Sequence[tuple[float, float]]) -> str:
    parts, place = _frame(x_name)
    if points:
        line = "L".join(place(x, y) for x, y in points)
        parts.append(f'<path class="line" d="M{line}"/>')
    return _figure(_svg(290, 284, title, parts), title)


def _reliability_plot(bins: Sequence[Mapping[str, Any]]) -> str:
    parts, place = _frame("score")
    parts.append(f'<path class="faint" d="M{place(0, 0)}L{place(1, 1)}"/>')
    for item in bins:
        if item["count"]:
            x, y = place(item["low"], item["accuracy"]).split()
            width = 240 * (item["high"] - item["low"])
            parts.append(
                f'<rect class="bar" fill-opacity=".75" x="{float(x) + 1:.1f}" y="{y}" '
                f'width="{width - 2:.1f}" height="{240 * item["accuracy"]:.1f}"><title>'
                f"{item['count']} entities, score {item['confidence']:.3f}, right "
                f"{item['accuracy']:.3f}</title></rect>"
            )
    caption = "Reliability: share that is right against score"
    return _figure(_svg(290, 284, caption, parts), caption)


# --------------------------------------------------------------------------------------------------
# Terminal


def score_table(evaluation: Evaluation, title: str = "") -> Table:
    """Build the table of scores: a row a corpus and metric, in percent."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(title) or None, title_justify="left")
    table.add_column("corpus")
    table.add_column("metric")
    for name in ("precision", "recall", "F1", "95 % interval", "support"):
        table.add_column(name, justify="right")
    items = list(evaluation.corpora.items())
    if len(items) > 1:
        items.append(("average", evaluation.average))
    for index, (corpus, scores) in enumerate(items):
        is_average = len(items) > 1 and index == len(items) - 1
        for row, (metric, score) in enumerate(scores.items()):
            table.add_row(
                escape(corpus) if row == 0 else "",
                metric,
                _percent(score.precision),
                _percent(score.recall),
                _percent(score.f1),
                f"{_percent(score.low)} – {_percent(score.high)}",
                str(score.support),
                style="bold" if is_average else "",
            )
        table.add_section()
    return table


def error_tables(analysis: Analysis, max_rows: int = 8) -> list[Table]:
    """Build the tables of errors: classes, labels, confusions, lengths, examples."""
    from rich.markup import escape
    from rich.table import Table

    def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
        out = Table(title=title, title_justify="left")
        for index, name in enumerate(head):
            out.add_column(name, justify="right" if index and name in _FIGURES else "left")
        for row in rows:
            out.add_row(*map(escape, row))
        return out

    total = max(1, analysis.outcomes.total())
    tables = [
        table(
            "What goes wrong",
            ("class", "entities", "share", "what it is"),
            (
                (name, str(n := analysis.outcomes[name]), _percent(n / total), _EXPLAINED[name])
                for name in OUTCOMES
            ),
        )
    ]
    for title, scores in (
        ("Labels", analysis.by_label),
        ("Length in words", analysis.by_length),
        ("Labels seen in training", analysis.by_seen),
    ):
        if scores:
            rows = [_score_row(name, score) for name, score in list(scores.items())[:25]]
            rows = [[html.unescape(cell) for cell in row] for row in rows]
            tables.append(
                table(title, (title.lower(), "precision", "recall", "F1", "support"), rows)
            )
    if analysis.confusions:
        pairs = analysis.confusions.most_common(max_rows)
        rows = [[gold, predicted, str(n)] for (gold, predicted), n in pairs]
        tables.append(table("Most frequent confusions", ("gold", "predicted", "times"), rows))
    examples = [
        [name, f"{c.before} [{c.gold or c.predicted}] {c.after}", c.gold_label, c.predicted_label]
        for name, cases in analysis.cases.items()
        for c in cases[:2]
    ]
    if examples:
        tables.append(table("Examples", ("class", "sentence", "gold", "predicted"), examples))
    return tables


_FIGURES = {"entities", "share", "precision", "recall", "F1", "support", "times"}

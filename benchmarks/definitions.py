"""Whether definitions are read: the benchmark's dev sentences, asked in names, definitions or both.

`one type` are questions for a single type of sentences that hold it or another type of its kind
(politicians of sentences with any persons). Under the name of its kind (`person`) nothing but the
definition says what is meant. The definitions stand in definitions.toml, in words that no training
has seen; kinds are those of `label_cards.jsonl`.

    NOMINA_DATA=... python benchmarks/definitions.py
"""

import argparse
import dataclasses
import random
import sys
from functools import partial
from pathlib import Path

from rewritten import print_table

from nomina.corpora import read_corpus, write_examples
from nomina.entities import Label, LabelSet
from nomina.mixture import Cards, label_cards_path, replace_label
from nomina.protocols import ZERO_SHOT_SETS, drop_labels, get_protocol

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# What is asked for, under which name, and whether with the definition.
FORMS = {
    "names": ("all types", "name", False),
    "names and definitions": ("all types", "name", True),
    "definitions as names": ("all types", "definition", False),
    "`type A`, `type B` ... and definitions": ("all types", "symbol", True),
    "one type: its name": ("one type", "name", False),
    "one type: its definition as its name": ("one type", "definition", False),
    "one type: its kind's name and its definition": ("one type", "kind", True),
    "one type: its kind's name": ("one type", "kind", False),
}


def ask_for(name, kind, definition, symbol, by):
    """What a type is asked for as."""
    names = {"name": name, "kind": kind, "symbol": symbol, "definition": definition}
    return Label(names[by], definition)


def ask_for_all(rows, definitions, by):
    """Ask every sentence for all types."""
    asked = {
        name: ask_for(name, "", definition, f"type {chr(65 + number)}", by)
        for number, (name, definition) in enumerate(definitions.items())
    }
    for row in rows:
        spans = tuple(replace_label(span, asked[span.label].name) for span in row.spans)
        yield dataclasses.replace(row, spans=spans, labels=LabelSet(tuple(asked.values())))


def ask_for_one(rows, definitions, cards, by):
    """Ask for each type alone, where the text holds it or another of its kind."""
    families = {}
    for name in definitions:
        if kind := cards.kind(name):
            families.setdefault(kind, []).append(name)
    for row in rows:
        held = {span.label for span in row.spans}
        for kind, members in families.items():
            family = {kind, *members} & definitions.keys()
            if len(family) < 2 or not held & family:
                continue
            for name in members:
                label = ask_for(name, kind, definitions[name], "", by)
                spans = [replace_label(s, label.name) for s in row.spans if s.label == name]
                yield dataclasses.replace(row, spans=tuple(spans), labels=LabelSet((label,)))


def write(folder, form, limit):
    """Write all sets in one form; returns the files."""
    cards = Cards.read(label_cards_path())
    meanings = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
    what, by, _ = FORMS[form]
    paths = []
    for name in ZERO_SHOT_SETS:
        corpus = read_corpus(f"{name}:dev")
        dropped = get_protocol("zero-shot").dropped_labels(name)
        rows, _ = drop_labels(corpus.examples, corpus.labels, dropped)
        rows = random.Random(name).sample(rows, limit)
        if what == "one type":
            asked = ask_for_one(rows, meanings[name], cards, by)
        else:
            asked = ask_for_all(rows, meanings[name], by)
        paths.append(folder / f"{name}.jsonl")
        write_examples(list(asked), paths[-1])
    return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="", help="the default model, if not given")
    parser.add_argument("--limit", type=int, default=50, help="dev sentences of each set")
    parser.add_argument("--threshold", type=float, default=0.0, help="of scores")
    parser.add_argument("--forms", nargs="+", default=list(FORMS), choices=FORMS)
    options = parser.parse_args()
    shown = {True: "--definitions", False: "--no-definitions"}
    asked = {
        form: [shown[FORMS[form][2]], "--threshold", options.threshold] for form in options.forms
    }
    print_table("asked for as", asked, partial(write, limit=options.limit), options)


if __name__ == "__main__":
    main()

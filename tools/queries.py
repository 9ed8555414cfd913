"""Write a corpus of search queries as people type them, for the training of the default model.

    python tools/queries.py runs/queries.jsonl --count 6000

Corpora of running text mark things that have names. Queries also say what something is like or
where it is without a name (`cheap`, `closest`, `open late`, `good reviews`), and models trained on
the former miss the latter. The queries are made from the lists and patterns in `queries.toml`; each
is annotated with the whole label set of its domain, so that what is not marked is not of these
types. Local search, shopping, travel, jobs and media; restaurants and films, which the benchmark
asks for, are left out on purpose. The same seed writes the same file.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from random import Random
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Piece = tuple[str, str]  # words, and the slot they fill ("" for none)
Query = tuple[list[Piece], dict[str, str]]  # pieces, and the label of each slot

LISTS: dict[str, Any] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
# Words that lead to a price or a rating and are not part of it, and to other slots
FILLERS = ("with the", "with a", "with at", "with", "that has", "that is", "for", "at a")
# Slots whose first word may lead to them (`in may`, `for kids`); elsewhere it belongs (`on sale`)
LEADING = ("in", "on", "at", "for", "with", "about", "from", "over")
LED = frozenset(
    "location city topic subject theme audience use occasion date language platform credential "
    "benefit venue year".split()
)


def place(rng: Random) -> list[Piece]:
    """Say where something is: with a name, beside something, or in words like `nearby`."""
    towns, marks = LISTS["towns"], LISTS["marks"]
    kind = rng.random()
    if kind < 0.3:
        return [("in", ""), (rng.choice(towns), "location")]
    if kind < 0.5:
        near = rng.choice(["near", "close to", "by", "next to", "around", "across from"])
        return [(f"{near} {rng.choice(marks + towns)}", "location")]
    if kind < 0.6:
        return [(f"on {rng.choice(LISTS['streets'])}", "location")]
    if kind < 0.66:
        miles = rng.choice(["2 miles", "10 minutes", "half an hour", "5 blocks", "a short drive"])
        return [(f"within {miles} of {rng.choice(marks + towns)}", "location")]
    return [(rng.choice(LISTS["near"]), "location")]


def without_filler(text: str, slot: str) -> list[Piece]:
    """Part `with good reviews` into what leads to the slot and what fills it."""
    for filler in FILLERS:
        if text.startswith(f"{filler} "):
            return [(filler, ""), (text.removeprefix(f"{filler} "), slot)]
    return [(text, slot)]


def local_query(rng: Random) -> Query:
    """Return a search for a place, as pieces, and the names of its slots."""
    domain = LISTS["places"][rng.choice(list(LISTS["places"]))]
    slots = {**LISTS["place_labels"], **domain["labels"]}
    labels = {slot: rng.choice(names) for slot, names in slots.items()}

    def one(key: str) -> str:
        return str(rng.choice(domain.get(key) or LISTS[key]))

    adjectives = [
        (one("price_pre"), "price"),
        (one("rating_pre"), "rating"),
        (one("adjs"), "amenity"),
        (rng.choice(["closest", "nearest", "nearby", "local", "closest", "downtown"]), "location"),
    ]
    wheres = [place(rng), place(rng)]
    hours = [(one("hours"), "hours")]
    endings = [
        *wheres,
        hours,
        [("thats", ""), (one("hours"), "hours")],
        without_filler(one("price_post"), "price"),
        without_filler(one("rating_post"), "rating"),
        [(rng.choice(["with", "that has", "that offers", "with"]), ""), (one("withs"), "amenity")],
        [("that", ""), (one("verbs"), "amenity")],
        [(rng.choice(["thats", "that is", "which is"]), ""), (one("adjs"), "amenity")],
        [
            ("with", ""), (one("withs"), "amenity"),
            (rng.choice(["and", "or"]), ""), (one("withs"), "amenity"),
        ],
    ]  # fmt: skip
    if rng.random() < 0.3:
        return named_query(rng, one, wheres, rng.choice(endings), hours), labels
    pieces: list[Piece] = [(rng.choice(LISTS["openers"]), "")] if rng.random() < 0.85 else []
    pieces += rng.sample(adjectives, rng.choice([0, 0, 1, 1, 1, 2]))
    if rng.random() < 0.5:
        pieces.append((one("kinds"), "kind"))
    pieces.append((one("heads"), ""))
    taken = {slot for _, slot in pieces if slot}
    for ending in rng.sample(endings, rng.choice([0, 1, 1, 1, 2, 2, 3])):
        slots_of = {slot for _, slot in ending if slot}
        if not slots_of & taken:
            pieces += ending
            taken |= slots_of
    return pieces, labels


def named_query(
    rng: Random,
    one: Any,
    wheres: list[list[Piece]],
    ending: list[Piece],
    hours: list[Piece],
) -> list[Piece]:
    """Return the pieces of a query that names the place."""
    name, where = (one("names"), "name"), rng.choice(wheres)
    offer = (one("withs"), "amenity")
    return rng.choice(
        [
            [("does", ""), name, ("have", ""), offer],
            [("is", ""), name, *hours],
            [("is there a", ""), name, *where],
            [("how do i get to", ""), name, *where],
            [("what time does", ""), name, ("close", ""), *rng.choice([[], hours])],
            [("is", ""), name, (one("price_pre"), "price")],
            [("does", ""), name, *where, ("have", ""), offer],
            [("find a", ""), name, *ending],
            [("where is the", ""), (rng.choice(LISTS["near"][:4]), "location"), name],
            [("are the reviews for", ""), name, (one("rating_pre"), "rating")],
            [("call", ""), name, *where, ("and ask if it", ""), (one("verbs"), "amenity")],
            [("phone number for", ""), name, *where],
            [name, *where],
        ]
    )


def pattern_query(rng: Random) -> Query:
    """Return a query of one of the other domains, as pieces, and the names of its slots."""
    domain = LISTS["patterns"][rng.choice(list(LISTS["patterns"]))]
    slots = [slot for slot in domain if slot not in ("patterns", "labels")]
    names = {**LISTS["slot_labels"], **domain.get("labels", {})}
    labels = {slot: rng.choice(names.get(slot, [slot])) for slot in slots}
    pattern = rng.choice(domain["patterns"])
    pieces: list[Piece] = []
    if pattern.startswith("{") and rng.random() < 0.4:  # others are whole questions
        pieces.append((rng.choice(LISTS["openers"]), ""))
    for index, part in enumerate(pattern.replace("}", "{").split("{")):
        if index % 2 == 0:
            pieces.append((part.strip(), ""))
            continue
        text = rng.choice(domain[part])
        if len(pieces) > 2 and rng.random() < 0.15:
            continue  # people leave things out
        first, _, rest = text.partition(" ")
        if first in LEADING and rest and part in LED:
            pieces += [(first, ""), (rest, part)]
        else:
            pieces.append((text, part))
    return pieces, labels


def render(pieces: list[Piece], labels: dict[str, str], rng: Random) -> dict[str, list[str]]:
    """Return a record with tokens, tags and the label set."""
    tokens: list[str] = []
    tags: list[str] = []
    for text, slot in pieces:
        for index, word in enumerate(text.split()):
            tokens.append(word)
            tags.append(f"{'I' if index else 'B'}-{labels[slot]}" if slot else "O")
    if rng.random() < 0.1:
        tokens.append("?")
        tags.append("O")
    return {"tokens": tokens, "labels": tags, "label_set": list(labels.values())}


def queries(count: int, seed: int = 0) -> list[dict[str, list[str]]]:
    """Return queries that differ, each with at least one entity."""
    rng = Random(seed)
    seen: set[str] = set()
    records: list[dict[str, list[str]]] = []
    while len(records) < count:
        pieces, labels = (local_query if rng.random() < 0.5 else pattern_query)(rng)
        if len(set(labels.values())) < len(labels):
            continue  # two slots drew the same name
        record = render(pieces, labels, rng)
        key = " ".join(record["tokens"])
        if key not in seen and set(record["labels"]) != {"O"}:
            seen.add(key)
            records.append(record)
    return records


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--count", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    lines = [json.dumps(record) for record in queries(args.count, args.seed)]
    args.path.parent.mkdir(parents=True, exist_ok=True)
    args.path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{args.path}: {len(lines)} queries")


if __name__ == "__main__":
    main()

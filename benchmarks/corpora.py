"""Measure readers, writers, chunking and offsets.

    python benchmarks/corpora.py               MB/s of each format, reading and writing
    python benchmarks/corpora.py --offsets     offset errors over all corpora of NOMINA_DATA
    python benchmarks/corpora.py --sentences   sentence ends found, by language
    python benchmarks/corpora.py --chunking    seconds for 1 MB of real text

The text is real: corpora of NOMINA_DATA, spacing restored. One process, processor time, best of
three.
"""

from __future__ import annotations

import argparse
import functools
import gc
import os
import re
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from nomina.chunking import split_sentences, split_text
from nomina.corpora import FORMATS, read_corpus, read_examples, read_index, write_examples
from nomina.entities import (
    Entity,
    Example,
    join_words,
    restore_spacing,
    spans_to_entities,
    split_words,
)
from nomina.errors import NominaError

LANGUAGES = {
    "en news": "uner_en_pud:test", "en web": "ud_ewt_pos:dev", "en law": "legal_ner_bc:dev",
    "de": "germeval14:dev", "es": "conll2002_es:dev", "it": "kind_it_wn:dev", "pt": "lener_br:dev",
    "ru": "nerel:dev", "fi": "turku_fi:dev", "kk": "kaznerd:dev", "hi": "hiner_dev:dev",
    "zh": "uner_zh_gsd:dev", "ja": "stockmark_ja:dev",
}  # fmt: skip


def best(run: Callable[[], object], repeats: int = 3) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def natural(example: Example) -> Example:
    text, offsets = restore_spacing(example.words)
    entities = spans_to_entities(text, offsets, example.spans)
    return Example.from_entities(text, [Entity(e.text, e.label, e.start, e.end) for e in entities])


def size_of(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def write_anew(examples: list[Example], path: Path, name: str) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    write_examples(examples, path, name)


def count_examples(path: Path, name: str) -> int:
    return sum(1 for _ in read_examples(path, name))


def formats(source: str, count: int) -> None:
    examples = [natural(e) for e in read_corpus(source).examples[:count]]
    gc.freeze()  # the examples at hand are not what is measured
    num_chars = sum(len(e.text) for e in examples)
    print(f"{source}: {len(examples)} texts, {num_chars / 1e6:.2f} M characters")
    print("| format | file MB | read MB/s | write MB/s | read M chars/s |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for form in FORMATS.values():
            path = Path(name) / f"{form.name}{form.suffix}"
            try:
                write_s = best(functools.partial(write_anew, examples, path, form.name))
                read_s = best(functools.partial(count_examples, path, form.name))
            except NominaError as error:
                print(f"| {form.name} | {error} | | | |")
                continue
            mb = size_of(path) / 1e6
            print(
                f"| {form.name} | {mb:.1f} | {mb / read_s:.1f} | {mb / write_s:.1f} "
                f"| {num_chars / 1e6 / read_s:.1f} |"
            )
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")


def offsets(limit: int | None) -> None:
    totals = dict.fromkeys(("sets", "splits", "texts", "words", "entities", "errors"), 0)
    languages = set()
    start = time.perf_counter()
    for name, entry in read_index().items():
        totals["sets"] += 1
        if re.fullmatch(r"[a-z]{2,3}", str(entry.get("language"))):
            languages.add(entry["language"])
        for split in entry["splits"]:
            corpus = read_corpus(name, split)
            totals["splits"] += 1
            for warning in corpus.warnings:
                print(f"{name}:{split}: {warning}")
            for example in corpus.examples[:limit]:
                words, spans = example.words, example.spans
                totals["texts"] += 1
                totals["words"] += len(words)
                totals["entities"] += len(spans)
                for text, pairs in (join_words(words), restore_spacing(words)):
                    wrong = [text[a:b] for a, b in pairs] != words
                    entities = spans_to_entities(text, pairs, spans)
                    wrong |= any(text[e.start : e.end] != e.text for e in entities)
                    # ... and cut again by our own words, as for a user's text
                    again = Example.from_entities(text, entities)
                    wrong |= len(again.spans) != len(entities)  # cuts it, and forgets the entities
                    wrong |= again.entities() != entities
                    totals["errors"] += wrong
                    if wrong:
                        print(f"{name}:{split}: example {example.id}: {text[:80]!r}")
    print(totals, f"{len(languages)} languages {sorted(languages)}", end=" ")
    print(f"{time.perf_counter() - start:.0f} s")


def sentences() -> None:
    print("| text | precision | recall | F1 |\n|---|---|---|---|")
    for title, name in LANGUAGES.items():
        parts = [restore_spacing(e.words)[0] for e in read_corpus(name).examples[:1500]]
        space = "" if title in ("zh", "ja") else " "
        gold, position = set(), 0
        for part in parts[:-1]:
            position += len(part) + len(space)
            gold.add(position)
        text = space.join(parts)
        pairs = split_words(text)
        found = {pairs[a][0] for a, _ in split_sentences(text, pairs)} - {0}
        right = len(gold & found)
        precision, recall = right / max(1, len(found)), right / max(1, len(gold))
        f1 = 2 * right / max(1, len(found) + len(gold))
        print(f"| {title} ({name}) | {precision:.3f} | {recall:.3f} | {f1:.3f} |")


def chunking() -> None:
    for title, name in (("en", "cuad_entities:train"), ("zh", "cluener:train")):
        text = "\n".join(restore_spacing(e.words)[0] for e in read_corpus(name).examples)
        text = text.encode()[: 10**6].decode("utf-8", "ignore")
        pairs = split_words(text)
        words_s = best(functools.partial(split_words, text))
        cut_s = best(functools.partial(split_text, text, pairs, 200, 30))
        num_windows = len(split_text(text, pairs, 200, 30))
        print(
            f"{title}: 1 MB, {len(pairs)} words: split_words {words_s:.2f} s, split_text "
            f"{cut_s:.3f} s, {num_windows} windows"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("offsets", "sentences", "chunking"):
        parser.add_argument(f"--{name}", action="store_true")
    parser.add_argument("--source", default="wikineural_en:dev")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--limit", type=int, help="texts of each split, for --offsets")
    args = parser.parse_args()
    if not os.environ.get("NOMINA_DATA"):
        parser.error("set NOMINA_DATA to the folder of corpora")
    if args.offsets:
        offsets(args.limit)
    if args.sentences:
        sentences()
    if args.chunking:
        chunking()
    if not (args.offsets or args.sentences or args.chunking):
        formats(args.source, args.count)


if __name__ == "__main__":
    main()

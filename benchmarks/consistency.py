"""Measure whether mentions of one string should agree: `python benchmarks/consistency.py`.

Dev sentences of a corpus are joined, ten a document, in the order of the corpus; the tagger reads
each document once at threshold 0 and the rules are tried on what it found. Predictions are kept in
`--cache`, so that a rule can be changed without reading again. Prints one JSON line a corpus.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import nomina
from nomina.consistency import agree
from nomina.corpora import read_corpus
from nomina.entities import Example, Span, join_words
from nomina.evaluation import score
from nomina.predictions import Prediction

SHARES = (1.1, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.1, 0.0)


def joined(examples, size):
    """Join runs of sentences to one example each."""
    for at in range(0, len(examples) - size + 1, size):
        words, tags = [], []
        for example in examples[at : at + size]:
            words += example.words
            tags += example.tags
        yield Example.from_tags(words, tags)


def predict(name, num_documents, size, cache):
    """Return gold and found spans of documents, from the cache where they are there."""
    corpus = read_corpus(name, "dev")
    documents = list(joined(corpus.examples, size))[:num_documents]
    path = cache / f"{name}-{size}.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if len(rows) < len(documents):
        tagger = nomina.load()
        labels = [label for label in corpus.labels.names if label != "misc"]
        left = documents[len(rows) :]
        with path.open("a") as file:
            for example, document in zip(left, tagger.pipe(left, labels, threshold=0), strict=True):
                _, offsets = join_words(example.words)
                starts = {a: i for i, (a, _) in enumerate(offsets)}
                ends = {b: i + 1 for i, (_, b) in enumerate(offsets)}
                found = [(starts[e.start], ends[e.end], e.label, e.score) for e in document]
                row = {"words": example.words, "gold": list(example.spans), "found": found}
                file.write(json.dumps(row) + "\n")
                file.flush()
                rows.append(row)
    return rows[: len(documents)]


def measure(rows, share):
    """Return F1, precision, recall and how many entities the rule changed or added."""
    predictions, num_changed = [], 0
    for row in rows:
        gold = tuple(Span(*x) for x in row["gold"] if x[2] != "misc")
        found = [(Span(a, b, label), p) for a, b, label, p in row["found"]]
        after = found if share is None else agree(row["words"], found, share)
        spans = tuple(span for span, _ in after)
        num_changed += len(set(spans) - {span for span, _ in found})
        predictions.append(Prediction(row["words"], gold, spans))
    strict = score(predictions, ["strict"], num_resamples=0)["strict"]
    return [round(100 * x, 2) for x in (strict.f1, strict.precision, strict.recall)] + [num_changed]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpora", nargs="+", default=["wnut17", "ncbi_disease", "crossner_ai"])
    parser.add_argument("--documents", type=int, default=60)
    parser.add_argument("--size", type=int, default=10)
    parser.add_argument("--cache", type=Path, default=Path("/tmp/nomina-consistency"))
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    for name in options.corpora:
        start = time.perf_counter()
        rows = predict(name, options.documents, options.size, options.cache)
        line = {"set": name, "documents": len(rows), "s": round(time.perf_counter() - start, 1)}
        for share in (None, *SHARES):
            line["as found" if share is None else f"from {share}"] = measure(rows, share)
        print(json.dumps(line))


if __name__ == "__main__":
    main()

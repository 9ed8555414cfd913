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
from nomina.corpora import read_corpus
from nomina.entities import Example, join_words


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
        print(json.dumps({"set": name, "documents": len(rows), "s": time.perf_counter() - start}))


if __name__ == "__main__":
    main()

"""What decoding costs as label sets and texts grow: prints JSON and draws docs/images/cost.png.

Sentences of crossner_ai dev, label names of `label_cards.jsonl`, the default model; the median of
some rounds that alternate between the sizes. Each label set is new to the engine in each round, so
the first sentence pays for reading it and the others do not.

    NOMINA_DATA=... python benchmarks/cost.py --rounds 3
"""

import argparse
import json
import random
import statistics
import time

import torch

import nomina
from nomina.corpora import read_corpus
from nomina.engine import Usage
from nomina.mixture import Cards, label_cards_path

LABELS = (5, 10, 20, 50, 100, 200, 500)
WORDS = (10, 30, 100, 300, 1000, 3000, 5000)


def timed(tagger, texts, labels):
    """Seconds and tokens of reading texts together."""
    tagger.engine.usage = usage = Usage()
    began = time.perf_counter()
    found = sum(len(document.entities) for document in tagger.pipe(texts, labels))
    return time.perf_counter() - began, usage.tokens, found


def by_labels(tagger, sentences, names, rng):
    for count in LABELS:
        labels = rng.sample(names, count)
        first, _, _ = timed(tagger, sentences[:1], labels)
        seconds, tokens, _ = timed(tagger, sentences[1:], labels)
        more = len(sentences) - 1
        yield count, {"first": first, "further": seconds / more, "tokens": tokens / more}


def by_words(tagger, words, labels):
    for count in WORDS:
        text = " ".join((words * (1 + count // len(words)))[:count])
        timed(tagger, ["a warm-up"], labels)
        seconds, tokens, found = timed(tagger, [text], labels)
        yield count, {"seconds": seconds, "tokens": tokens, "entities": found}


def medians(rounds):
    """Median of each figure, by size."""
    return {
        size: {key: statistics.median(row[size][key] for row in rounds) for key in rounds[0][size]}
        for size in rounds[0]
    }


def draw(labels, words, path):
    """Draw both: labels and words map sizes to figures."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4))
    left.plot([*labels], [1000 * x["first"] for x in labels.values()], "-o", label="first sentence")
    further = [1000 * x["further"] for x in labels.values()]
    left.plot([*labels], further, "-o", label="each further sentence, read together")
    left.set(xlabel="labels asked for", ylabel="ms", xscale="log", yscale="log")
    right.plot([*words], [x["seconds"] for x in words.values()], "-o", label="one text")
    size = max(words)
    line = [words[size]["seconds"] * count / size for count in words]
    right.plot([*words], line, ":", color="gray", label="linear")
    right.set(xlabel="words of the text", ylabel="seconds", xscale="log", yscale="log")
    for axes in (left, right):
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=None)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sentences", type=int, default=9)
    parser.add_argument("--picture", default="docs/images/cost.png")
    options = parser.parse_args()
    tagger = nomina.load(options.model)
    corpus = read_corpus("crossner_ai:dev")
    rng = random.Random(0)
    sentences = [row.text for row in rng.sample(corpus.examples, options.sentences)]
    names = Cards.read(label_cards_path()).names()
    words = [word for row in corpus.examples for word in row.text.split()]
    own = [name for name in corpus.labels.names if name != "miscellaneous"]
    timed(tagger, sentences, own)  # warms everything up
    rounds = [
        (dict(by_labels(tagger, sentences, names, rng)), dict(by_words(tagger, words, own)))
        for _ in range(options.rounds)
    ]
    labels, texts = (medians([row[part] for row in rounds]) for part in (0, 1))
    draw(labels, texts, options.picture)
    result = {"threads": torch.get_num_threads(), "dtype": str(tagger.model.module.dtype)}
    print(json.dumps({**result, "labels": labels, "words": texts}, indent=2))


if __name__ == "__main__":
    main()

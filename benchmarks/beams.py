"""What beam search adds to grounded decoding, and what it costs: F1 difference, tokens, seconds.

Predicts the same sentences greedily and with beams, compares with the paired bootstrap, and counts
walks that beams made more probable. One JSON line.

    python benchmarks/beams.py --data crossner_ai:dev mit_movie:dev --sentences 40 --beams 4
"""

import argparse
import json
import random
import sys
import time

import torch

import nomina
from nomina.comparison import compare_average
from nomina.corpora import read_corpus
from nomina.entities import LabelSet
from nomina.extractor import Tagger
from nomina.predictions import Prediction, Problems
from nomina.runs import to_words


def predict(tagger, examples, labels):
    out = []
    for example, document in zip(examples, tagger.pipe(examples, labels), strict=True):
        spans, scores = to_words(example, document, Problems())
        gold = tuple(span for span in example.spans if span.label in labels.names)
        out.append(Prediction(example.words, gold, spans, scores))
        print(".", end="", file=sys.stderr, flush=True)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=["crossner_ai:dev", "mit_movie:dev"])
    parser.add_argument("--model", default=None)
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--sentences", type=int, default=40)
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    greedy = nomina.load(options.model, dtype=options.dtype)
    wide = Tagger(greedy.model, greedy.calibration, num_beams=options.beams)
    one, many = {}, {}
    seconds = {"greedy": 0.0, "beams": 0.0}
    for data in options.data:
        corpus = read_corpus(data)
        names = [name for name in corpus.labels.names if name not in ("miscellaneous", "else")]
        labels = LabelSet.of(names)
        examples = random.Random(options.seed).sample(corpus.examples, options.sentences)
        for name, tagger, found in (("greedy", greedy, one), ("beams", wide, many)):
            began = time.process_time()
            found[data] = predict(tagger, examples, labels)
            seconds[name] += time.process_time() - began
    result = {
        "data": options.data,
        "sentences each": options.sentences,
        "beams": options.beams,
        "dtype": str(greedy.model.module.dtype),
        "threads": torch.get_num_threads(),
    }
    for metric in ("strict", "gner"):
        found = compare_average(one, many, metric)
        result[f"{metric} F1, greedy"] = round(100 * found.first, 2)
        result[f"{metric} F1, beams"] = round(100 * found.second, 2)
        result[f"{metric} difference, 95 %"] = [
            round(100 * value, 2) for value in (found.delta, found.low, found.high)
        ]
    pairs = [(a, b) for data in one for a, b in zip(one[data], many[data], strict=True)]
    result["sentences that differ"] = sum(a.predicted != b.predicted for a, b in pairs)
    usage = wide.engine.usage
    result["passes a sentence"] = round(usage.passes / usage.requests, 2)
    result["tokens / floor"] = round(usage.tokens / usage.floor_tokens, 2)
    result["tokens / floor, greedy"] = round(
        greedy.engine.usage.tokens / greedy.engine.usage.floor_tokens, 2
    )
    result["CPU seconds, beams / greedy"] = round(seconds["beams"] / seconds["greedy"], 2)
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()

"""What decoding costs on real corpora: readings and tokens a sentence, as a Markdown table.

Passes are readings of the model over many sentences at once, reads those of one sentence; tokens
are compared with one teacher-forced reading of prompt and completion (1.00 is the least there is).

    NOMINA_DATA=... python benchmarks/reads.py --sentences 48
"""

import argparse
import random
import time

import nomina
from nomina.corpora import read_corpus
from nomina.engine import Usage
from nomina.protocols import ZERO_SHOT_SETS

OTHERS = ("contract_ner", "ncbi_disease", "wnut17", "stackoverflow", "hwu64:test", "uner_zh_gsd")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=None)
    parser.add_argument("--sentences", type=int, default=48)
    parser.add_argument("--data", nargs="+", default=[*ZERO_SHOT_SETS, *OTHERS])
    parser.add_argument("--no-heads", action="store_true", help="draft by rules alone")
    options = parser.parse_args()
    tagger = nomina.load(options.model)
    if options.no_heads:
        tagger.model.heads = None
    print("| corpus | labels | words | passes | reads | tokens of the floor | ms |")
    print("|---|---|---|---|---|---|---|")
    for name in options.data:
        corpus = read_corpus(name if ":" in name else f"{name}:dev")
        rows = random.Random(0).sample(corpus.examples, min(options.sentences, len(corpus)))
        texts = [row.text for row in rows]
        list(tagger.pipe(texts[:2], corpus.labels))  # reads the prompt of the label set
        tagger.engine.usage = usage = Usage()
        began = time.perf_counter()
        list(tagger.pipe(texts, corpus.labels))
        seconds = time.perf_counter() - began
        num = len(rows)
        print(
            f"| {name} | {len(corpus.labels)} | {sum(len(row.words) for row in rows) / num:.0f} "
            f"| {usage.passes / num:.2f} | {usage.reads / num:.1f} "
            f"| {usage.tokens / usage.floor_tokens:.2f} | {1000 * seconds / num:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

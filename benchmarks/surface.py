"""F1 on text as people write it: the benchmark's dev sentences, spaces restored, and worse.

Corpora come as separated words (`Paris .`), users type `Paris.`, or `paris`. The words and the gold
entities of one sentence are the same in every form; labels, threshold and sentences are those of
`nomina evaluate`.

    NOMINA_DATA=... python benchmarks/surface.py
"""

import argparse
import dataclasses
import random

from rewritten import print_table

from nomina.corpora import read_corpus, write_examples
from nomina.mixture import MixtureConfig, write_as_people
from nomina.protocols import ZERO_SHOT_SETS

NEVER = {"p_lower": 0.0, "p_typos": 0.0, "p_natural": 1.0}
FORMS = {
    "as in the corpus": None,
    "spaces restored": {},
    "the same in lower case, half of them without punctuation": {"p_lower": 1.0},
    "spaces restored, one word of ten misspelt": {"p_typos": 1.0},
}


def write(folder, name_of_form):
    """Write all sets in one form; returns the files."""
    form, paths = FORMS[name_of_form], []
    for name in ZERO_SHOT_SETS:
        corpus = read_corpus(f"{name}:dev")
        rows = [dataclasses.replace(row, labels=corpus.labels) for row in corpus.examples]
        if form is not None:
            config, rng = MixtureConfig(**NEVER | form), random.Random(f"{name} 0")
            rows = [
                dataclasses.replace(write_as_people(row, config, rng), labels=corpus.labels)
                for row in rows
            ]
        paths.append(folder / f"{name}.jsonl")
        write_examples(rows, paths[-1])
    return paths


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="", help="the default model, if not given")
    parser.add_argument("--limit", type=int, default=100, help="dev sentences of each set")
    options = parser.parse_args()
    asked = ["--limit", options.limit]
    print_table("text", dict.fromkeys(FORMS, asked), write, options)


if __name__ == "__main__":
    main()

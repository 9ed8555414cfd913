"""How many readings free decoding needs for completions that a real model wrote.

Plays a model that writes given completions, GNER-T5-base's published ones with all their slips, to
the drafter, in the tokens of any tokenizer; no model is run. What a model would choose behind a
wrong draft is not known here, so real runs can guess better. One JSON line a corpus.

    python benchmarks/drafts.py --sentences 100
"""

import argparse
import gzip
import json
import os
import re
from collections import defaultdict

from transformers import AutoTokenizer

from nomina.base import prepare_base
from nomina.drafting import DraftConfig, Drafter
from nomina.errors import FormatError
from nomina.formats import Sentence, get_format
from nomina.grounding import Grounding, Lexicon


def play(drafter, written, end):
    """Return readings and tokens of drafts that it takes to write something."""
    at = readings = tokens = 0
    while at < len(written):
        draft = drafter.draft(len(written) - at + 64)
        while draft and draft[-1] == end:
            draft.pop()
        right = 0
        while (
            right < len(draft)
            and at + right < len(written) - 1
            and (draft[right] == written[at + right])
        ):
            right += 1
        ids = written[at : at + right + 1]
        drafter.write(ids, right == len(draft))
        at, readings, tokens = at + len(ids), readings + 1, tokens + len(draft) + (at > 0)
    return readings, tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    data = os.environ.get("NOMINA_DATA", "../shared/data")
    parser.add_argument("--file", default=f"{data}/gner_t5_base_predictions/dev700.jsonl.gz")
    parser.add_argument("--sentences", type=int, default=100, help="of each corpus")
    parser.add_argument("--certainty", type=float, default=DraftConfig.certainty)
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(prepare_base())
    end, form = tokenizer.eos_token_id, get_format("gner")

    def encode(text):
        return tokenizer.encode(text, add_special_tokens=False)

    lexicon = Lexicon(encode, end)
    sums = defaultdict(lambda: [0, 0, 0, 0, 0])
    with gzip.open(options.file, "rt", encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            total = sums[row["dataset"]]
            if total[0] == options.sentences:
                continue
            words = tuple(row["instance"]["words"])
            sentence = Sentence(words, ("", *[" "] * (len(words) - 1)))
            grounding = Grounding(form, sentence, tuple(row["label_list"]), lexicon)
            # They were decoded with the spaces before commas and the like cleaned away.
            text = re.sub(r"(\((?:O|[BI]-[^()]*)\))(?=\S)", r"\1 ", row["prediction"])
            written = [*encode(text), end]
            config = DraftConfig(certainty=options.certainty)
            readings, tokens = play(Drafter(grounding, [], config), written, end)
            try:
                is_clean = tuple(word for word, _ in form.parse(text)) == words
            except FormatError:
                is_clean = False
            for at, value in enumerate((1, readings, tokens, len(written), not is_clean)):
                total[at] += value
    for name, (count, readings, tokens, written, slips) in sums.items():
        print(
            json.dumps(
                {
                    "corpus": name,
                    "sentences": count,
                    "with slips": slips,
                    "tokens a completion": round(written / count, 1),
                    "readings a sentence": round(readings / count, 2),
                    "tokens / readings": round(written / readings, 1),
                    "tokens read / written": round(tokens / written, 2),
                }
            )
        )


if __name__ == "__main__":
    main()

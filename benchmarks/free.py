"""Free decoding against `transformers.generate`: same model, prompts and output, in one run.

Alternates between the two, sentence by sentence, and prints ratios of CPU seconds as JSON (run it
with OMP_NUM_THREADS=1 on a busy machine: threads that wait for each other burn CPU). Every
completion is compared, id for id.

    python benchmarks/free.py --data crossner_ai:dev --sentences 6 --dtype float32
"""

import argparse
import json
import statistics
import sys
import time

import torch
from decoding import build

import nomina
from nomina.corpora import read_corpus
from nomina.drafting import DraftConfig
from nomina.generation import Generator


@torch.inference_mode()
def generate(model, request, limit):
    ids = torch.tensor([[*request.prefix_ids, *request.sentence_ids]])
    mask = torch.ones_like(ids)
    out = model.module.generate(ids, attention_mask=mask, max_new_tokens=limit, do_sample=False)
    return tuple(out[0, (1 if model.is_encoder_decoder else ids.shape[1]) :].tolist())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=["crossner_ai:dev", "mit_movie:dev"])
    parser.add_argument("--model", default=None)
    parser.add_argument("--format", default=None)
    parser.add_argument("--dtype", default=None)
    parser.add_argument("--sentences", type=int, default=6)
    parser.add_argument("--limit", type=int, default=60, help="ids a completion may have")
    parser.add_argument("--max-draft", type=int, default=256)
    parser.add_argument("--certainty", type=float, default=DraftConfig.certainty)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tagger = nomina.load(options.model, format=options.format, dtype=options.dtype)
    model = tagger.model
    for data in options.data:
        requests = build(model, read_corpus(data), options.sentences, options.seed)
        draft_config = DraftConfig(options.max_draft, options.certainty)
        single = Generator(model, None, options.limit, draft_config)
        list(single.decode(requests[:1]))  # warms up, and computes the shared prefix
        generate(model, requests[0], 4)
        single.usage = type(single.usage)()
        same, ratios, lengths = 0, [], []
        seconds = {"generate": 0.0, "free, one by one": 0.0}
        for request in requests:
            began = time.process_time()
            (have,) = single.decode([request])
            middle = time.process_time()
            want = generate(model, request, options.limit)
            end = time.process_time()
            same += have.ids == want
            lengths.append(len(want))
            ratios.append((end - middle) / (middle - began))
            seconds["free, one by one"] += middle - began
            seconds["generate"] += end - middle
            print(
                data, len(want), f"{end - middle:.1f} s / {middle - began:.1f} s", file=sys.stderr
            )
        batched = Generator(model, None, options.limit, draft_config)
        began = time.process_time()
        list(batched.decode(requests))
        seconds["free, batched"] = time.process_time() - began
        usage = single.usage
        count = len(requests)
        print(
            json.dumps(
                {
                    "data": data,
                    "format": model.format.name,
                    "dtype": str(model.module.dtype),
                    "threads": torch.get_num_threads(),
                    "max draft": options.max_draft,
                    "certainty": options.certainty,
                    "sentences": count,
                    "the same ids": f"{same} of {count}",
                    "ids a completion, mean": round(statistics.mean(lengths), 1),
                    "readings a sentence": round(usage.reads / count, 2),
                    "ids / readings": round(sum(lengths) / usage.reads, 1),
                    "tokens read / floor": round(usage.tokens / usage.floor_tokens, 2),
                    "generate / free, median": round(statistics.median(ratios), 1),
                    "generate / free, in all": round(
                        seconds["generate"] / seconds["free, one by one"], 1
                    ),
                    "generate / free, batched": round(
                        seconds["generate"] / seconds["free, batched"], 1
                    ),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()

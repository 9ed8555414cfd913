"""How fast decoding is against what it replaces, on one model and the same sentences, in one run.

Alternates between the systems, several rounds, and prints the median of each as JSON:

- `generate`: transformers' own greedy decoding of the same completion format, one sentence a call;
- `generate xN` (with `--batches N`): the same, N sentences of like length a call;
- `plain`: the grounded rule one choice at a time, with a cache of keys and values;
- `engine`: drafts and readings, batched, shared prefix;
- `single`: the same, one sentence a call;
- `engine, no heads` and `single, no heads`: without what guesses from the prompt (`nomina.heads`);
- `floor`: one teacher-forced reading of sentence and completion behind the shared prefix, batched.

    python benchmarks/decoding.py --sentences 16 --rounds 5
"""

import argparse
import contextlib
import json
import random
import statistics
import time

import torch

import nomina
from nomina.corpora import read_corpus
from nomina.engine import Draft, Engine, PackedReader, Request, Usage, decode_plain
from nomina.entities import LabelSet
from nomina.formats import Guess, Sentence
from nomina.grounding import Grounding
from nomina.models import load_model


def build(model, corpus, count, seed=0):
    names = [name for name in corpus.labels.names if name not in ("miscellaneous", "else")]
    labels = LabelSet.of(names)
    requests = []
    for example in random.Random(seed).sample(corpus.examples, count):
        sentence = Sentence.of(example.text, example.offsets)
        prompt = model.format.prompt(sentence, labels, False)
        grounding = Grounding(model.format, sentence, labels.names, model.lexicon)
        ids = tuple(model.prefix_ids(prompt)), tuple(model.sentence_ids(prompt))
        requests.append(Request(*ids, grounding))
    return requests


@contextlib.contextmanager
def without_heads(model):
    heads, model.heads = model.heads, None
    try:
        yield
    finally:
        model.heads = heads


def read_once(engine, requests, paths):
    """Read finished completions once: what verifying a perfect draft costs."""
    reader = PackedReader(engine.model, engine.config)
    drafts = []
    for slot, (request, path) in enumerate(zip(requests, paths, strict=True)):
        draft = Draft(request)
        draft._guesses = {fork.key: Guess(choice, "sure", 1.0) for fork, choice, _ in path}
        draft.write()
        drafts.append((slot, draft))
    with torch.inference_mode():
        step = engine.config.max_rows
        for start in range(0, len(drafts), step):
            group = [(slot % step, d) for slot, d in drafts[start : start + step] if d.open]
            for slot, draft in group:
                reader.open(slot, draft.request)
            if group:
                reader.read([d for _, d in group], [slot for slot, _ in group])


@torch.inference_mode()
def generate(model, requests, paths, size=1):
    """Let transformers write completions of the right lengths, so that slips cost neither side."""
    rows = []
    for request, path in zip(requests, paths, strict=False):
        fork = request.grounding.start()
        length = len(fork.forced) + sum(1 + len(f.take(c).forced) for f, c, _ in path)
        rows.append((length, [*request.prefix_ids, *request.sentence_ids]))
    rows.sort()  # a batch writes as long as its longest row
    for start in range(0, len(rows), size):
        batch = rows[start : start + size]
        width = max(len(ids) for _, ids in batch)
        ids = torch.tensor([[0] * (width - len(ids)) + ids for _, ids in batch])
        mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for _, ids in batch])
        length = batch[-1][0]
        model.module.generate(
            ids, attention_mask=mask, max_new_tokens=length, min_new_tokens=length, do_sample=False
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="crossner_ai:dev")
    parser.add_argument("--model", default=None)
    parser.add_argument("--sentences", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--generate", type=int, default=2, help="sentences for `generate`")
    parser.add_argument("--batches", type=int, nargs="*", default=[], help="of `generate`")
    options = parser.parse_args()
    model, corpus = nomina.load(options.model).model, read_corpus(options.data)
    untouched = load_model(options.model)  # as transformers loads it, without nomina's kernels
    requests = build(model, corpus, options.sentences)
    engine = Engine(model)
    paths = list(engine.decode(requests))  # warms everything up
    systems = ["generate", "plain", "engine", "single", "floor"]
    if model.heads is not None:
        systems += ["engine, no heads", "single, no heads"]
    systems += [f"generate x{size}" for size in options.batches]
    seconds = {name: [] for name in systems}
    few = options.generate
    for _ in range(options.rounds):
        for name in seconds:
            requests = build(model, corpus, options.sentences)  # forks are remembered: start anew
            began = time.perf_counter()
            count = options.sentences
            if name == "generate":
                generate(untouched, requests[:few], paths)
                count = few
            elif name.startswith("generate x"):
                size = int(name.removeprefix("generate x"))
                # Whole batches; the sentences are the engine's own, as often as it takes.
                count = max(size, count // size * size)
                many = [requests[i % len(requests)] for i in range(count)]
                generate(untouched, many, [paths[i % len(paths)] for i in range(count)], size)
            elif name == "plain":
                count = min(4, count)
                plain = [decode_plain(model, request) for request in requests[:count]]
            elif name.startswith("engine"):
                engine.usage = Usage()
                with without_heads(model) if "no heads" in name else contextlib.nullcontext():
                    list(engine.decode(requests))
            elif name.startswith("single"):
                count = 4
                with without_heads(model) if "no heads" in name else contextlib.nullcontext():
                    for request in requests[:count]:
                        list(engine.decode([request]))
            else:
                with without_heads(model):  # nothing is left to guess
                    read_once(engine, requests, paths)
            seconds[name].append((time.perf_counter() - began) / count)
            if name == "engine":
                usage = dict(vars(engine.usage))
    median = {name: statistics.median(values) for name, values in seconds.items()}
    same = sum(
        [c for _, c, _ in one] == [c for _, c, _ in other]
        for one, other in zip(paths, plain, strict=False)
    )
    print(
        json.dumps(
            {
                "data": options.data,
                "threads": torch.get_num_threads(),
                "dtype": str(model.module.dtype),
                "ms_per_sentence": {name: round(1000 * value, 1) for name, value in median.items()},
                "generate / engine": round(median["generate"] / median["engine"], 1),
                "generate in its best batch / engine": round(
                    min(v for k, v in median.items() if k.startswith("generate"))
                    / median["engine"],
                    1,
                ),
                "plain / engine": round(median["plain"] / median["engine"], 2),
                "engine / floor": round(median["engine"] / median["floor"], 2),
                "no heads / heads": {
                    name: round(median[f"{name}, no heads"] / median[name], 2)
                    for name in ("engine", "single")
                    if f"{name}, no heads" in median
                },
                "reads per sentence": round(usage["reads"] / usage["requests"], 2),
                "tokens / floor tokens": round(usage["tokens"] / usage["floor_tokens"], 2),
                "engine equals plain": f"{same} of {len(plain)}",
            },
            indent=2,
        )
    )


if __name__ == "__main__":
    main()

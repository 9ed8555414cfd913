"""How fast nomina is beside GLiNER: same sentences, labels, dtype and threads, in one run.

GLiNER (Zaratiana et al. 2024) gets random weights in the shapes of its published models, because no
hub is reachable here: what it finds is noise, what it costs is not. It has an environment of its
own (its transformers is older than ours may be), and is a process that waits while we are timed:

    python -m venv /tmp/peers && /tmp/peers/bin/pip install gliner
    python benchmarks/peers.py --peers /tmp/peers/bin/python --sentences 24 --rounds 5
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

SHAPES = {  # hidden size, layers, heads, inner size of DeBERTa-v3 small, base (medium) and large
    "gliner-small": (768, 6, 12, 3072),
    "gliner-medium": (768, 12, 12, 3072),
    "gliner-large": (1024, 24, 16, 4096),
}


def build_gliner(shape, texts, dtype):
    import torch
    from gliner import GLiNER, GLiNERConfig
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    trainer = trainers.UnigramTrainer(
        vocab_size=8000, special_tokens=special, unk_token="[UNK]", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    width, layers, heads, inner = shape
    with tempfile.TemporaryDirectory() as folder:
        PreTrainedTokenizerFast(
            tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
            unk_token="[UNK]", mask_token="[MASK]",
        ).save_pretrained(folder)  # fmt: skip
        encoder = {
            "model_type": "deberta-v2", "hidden_size": width, "num_hidden_layers": layers,
            "num_attention_heads": heads, "intermediate_size": inner, "vocab_size": 128100,
            "relative_attention": True, "position_buckets": 256, "max_relative_positions": -1,
            "norm_rel_ebd": "layer_norm", "share_att_key": True, "pos_att_type": "p2c|c2p",
            "type_vocab_size": 0, "position_biased_input": False, "layer_norm_eps": 1e-7,
        }  # fmt: skip
        config = GLiNERConfig(
            model_name=folder, encoder_config=encoder, hidden_size=512, max_len=384, max_width=12
        )
        model = GLiNER.from_config(config, backbone_from_pretrained=False, local_files_only=True)
    return model.to(getattr(torch, dtype)).eval()


def serve_peers():
    """Wait for a name on each line of the input, predict, answer with seconds."""
    import torch

    job = json.loads(sys.stdin.readline())
    torch.set_num_threads(job["threads"])
    torch.manual_seed(0)
    built = {name: build_gliner(SHAPES[name], job["texts"], job["dtype"]) for name in SHAPES}
    print("ready", flush=True)
    for line in sys.stdin:
        model = built[line.strip()]
        began = time.perf_counter()
        with torch.inference_mode():
            model.inference(job["texts"], job["labels"], threshold=0.5, batch_size=job["batch"])
        print(time.perf_counter() - began, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", help="Python of the environment that has gliner")
    parser.add_argument("--data", default="crossner_ai:dev")
    parser.add_argument("--sentences", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve_peers()
        return
    import random

    import torch

    import nomina
    from nomina.corpora import read_corpus

    corpus = read_corpus(options.data)
    labels = [name for name in corpus.labels.names if name != "miscellaneous"]
    texts = [x.text for x in random.Random(0).sample(corpus.examples, options.sentences)]
    tagger = nomina.load(dtype=options.dtype)
    command = [options.peers, __file__, "--serve"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    worker = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    job = {
        "texts": texts, "labels": labels, "dtype": options.dtype, "batch": options.batch,
        "threads": torch.get_num_threads(),
    }  # fmt: skip

    def ask(line):
        worker.stdin.write(line + "\n")
        worker.stdin.flush()
        while answer := worker.stdout.readline():
            if answer.strip() == "ready" or answer[:1].isdigit():
                return answer
        raise SystemExit("the process of the peers ended; see above")

    ask(json.dumps(job))
    seconds = {name: [] for name in ("nomina", *SHAPES)}
    for number in range(options.rounds + 1):  # the first warms up
        for name, times in seconds.items():
            if name == "nomina":
                began = time.perf_counter()
                list(tagger.pipe(texts, labels))
                spent = time.perf_counter() - began
            else:
                spent = float(ask(name))
            if number:
                times.append(1000 * spent / len(texts))
    worker.stdin.close()
    worker.wait()
    report = {name: round(statistics.median(times), 1) for name, times in seconds.items()}
    shown = {"data": options.data, "dtype": options.dtype, "threads": torch.get_num_threads()}
    print(json.dumps({**shown, "labels": len(labels), "ms_per_sentence": report}, indent=2))


if __name__ == "__main__":
    main()

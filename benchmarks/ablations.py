r"""What each choice of the default recipe is worth: short trainings that differ in one.

Every arm starts from the base, sees the same number of tokens from one seed, and is scored on dev
splits of the benchmark without a threshold. What is done already is not done again, so a killed run
goes on. Arms may run side by side, named:

    NOMINA_DATA=... python benchmarks/ablations.py                      # all, hours on a CPU
    NOMINA_DATA=... python benchmarks/ablations.py --arms "gner format" "rank 8"
    NOMINA_DATA=... python benchmarks/ablations.py --table              # of those that are done

The two arms of negatives learn only from choices near entities, as in the study of context length
in GNER's paper (Ding et al. 2024, section 5): `entities alone` from those inside entities. Arms of
the instruction are trained and asked with a prompt that tells what to do and what to write, which
`gner` has and `inline` has not.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from nomina import batches, material
from nomina.cli import app
from nomina.corpora import read_index
from nomina.formats import FORMATS, GnerFormat, InlineFormat
from nomina.recipes import Recipe
from nomina.training import train

ROOT = Path(__file__).parents[1]
ARMS = {
    "default recipe": {},
    "gner format": {"format": "gner"},
    "loss over the vocabulary": {"objective": "tokens"},
    "full fine-tuning": {"method": "full", "learning_rate": 5e-5},
    "rank 8": {"rank": 8},
    "rank 128": {"rank": 128},
    "no definitions": {"mixture": {"p_define": 0.0}},
    "definitions in half": {"mixture": {"p_define": 0.5}},
    "demonstrations in a fifth": {"mixture": {"p_demonstrate": 0.2}},
    "negatives within two words": {"near": 2},
    "entities alone": {"near": 0},
    "another seed": {"seed": 101},
    "with an instruction": {"instruction": True},
    "gner without its instruction": {"format": "gner", "instruction": False},
    "English alone": {"english": True},
    "phrases as labels": {"mixture": {"p_phrase": 0.3}},
}
INSTRUCTION = """\
Please analyze the text provided and mark every entity in it that is of one of the types.
Output format is: the text, word by word, with each entity as [entity](type), where:
1. [ denotes the start of an entity, ] its end, and the type in parentheses is one of those listed.
2. Words that are not part of an entity are written as they are.
"""


class InstructedFormat(InlineFormat):
    """`inline` told what to do, at GNER's length."""

    def prompt(self, *arguments):
        """Put the instruction first."""
        prompt = super().prompt(*arguments)
        return dataclasses.replace(prompt, prefix=INSTRUCTION + prompt.prefix)


class TerseFormat(GnerFormat):
    """`gner` without being told what to do."""

    def prompt(self, *arguments):
        """Leave the instruction out."""
        prompt = super().prompt(*arguments)
        at = prompt.prefix.index("Use the specific entity tags")
        return dataclasses.replace(prompt, prefix=prompt.prefix[at:])


def instruct(is_told):
    """Change the prompts of this process: tell `inline` what to do, or `gner` no longer."""
    name, form = ("inline", InstructedFormat()) if is_told else ("gner", TerseFormat())
    FORMATS[name] = form


def near_entities(encode, reach):
    """Wrap `encode`: choices outside and more than `reach` words from every entity teach nothing.

    Of a question without entities the first choice is kept, because a batch needs one.
    """

    def encode_near(model, question):
        encoded = encode(model, question)
        example = question.example
        sentence = batches.Sentence.of(example.text, example.offsets)
        labels = question.labels.names
        grounding = batches.Grounding(model.format, sentence, labels, model.lexicon)
        path = grounding.walk(batches.gold_spans(labels, example.spans))
        words = {
            word
            for span in example.spans
            for word in range(span.start - reach, span.end + reach)
            if span.label in labels
        }
        kept = [
            choice
            for choice, (fork, _) in zip(encoded.choices, path, strict=True)
            if fork.state.start >= 0 or fork.state.word in words
        ]
        return dataclasses.replace(encoded, choices=kept or encoded.choices[:1])

    return encode_near


def foreign_sources():
    """Corpora, and tasks of written passages, in other languages than English."""
    languages = {name: entry["language"] for name, entry in read_index().items()}
    foreign = {name for name, language in languages.items() if not language.startswith("en")}
    for path in (ROOT / "corpora" / "written").glob("languages*.txt"):
        lines = path.read_text(encoding="utf-8").splitlines()
        foreign |= {f"written: {line[3:]}" for line in lines if line.startswith("## ")}
    return foreign


def without(read_corpora, sources):
    """Wrap `read_corpora`: neither these corpora nor passages from these sources are read."""

    def read(names):
        for corpus in read_corpora(names):
            rows = [row for row in corpus.examples if row.source not in sources]
            if corpus.name not in sources:
                yield dataclasses.replace(corpus, examples=rows)

    return lambda names: list(read(names))


def folder_of(name, options):
    return options.output / f"{name.replace(' ', '-')}-{options.steps}"


def train_arm(name, options):
    """Train an arm if that is not done; returns its folder."""
    folder = folder_of(name, options)
    changes = {**ARMS[name]}
    changes.pop("instruction", None)
    near = changes.pop("near", None)
    is_english = changes.pop("english", False)
    values = Recipe.read(ROOT / "recipes" / "default.toml")
    mixture = {**values.mixture, **changes.pop("mixture", {})}
    if is_english:
        foreign = foreign_sources()
        shares = mixture["shares"].items()
        mixture["shares"] = {name: share for name, share in shares if name not in foreign}
    recipe = dataclasses.replace(
        values, output=str(folder), steps=options.steps, mixture=mixture, dev=(),
        evaluate_every=options.steps, save_every=25, heads=0, **changes,
    )  # fmt: skip
    if (folder / "minutes.json").is_file():
        return folder
    if is_english:
        material._read_corpora = without(material._read_corpora, foreign)
    if near is not None:
        batches.encode = near_entities(batches.encode, near)
    last = [0.0]

    def report(now):
        if time.monotonic() - last[0] > 60:
            last[0] = time.monotonic()
            print(f"{name}: {now.step}/{now.steps} loss {now.loss:.3f} {now.tokens} tokens "
                  f"{now.tokens_per_second:.0f}/s", file=sys.stderr, flush=True)  # fmt: skip
        seen[:] = [now.tokens, now.questions, now.seconds]  # of killed attempts, too

    seen = [0, 0, 0.0]
    train(recipe, report, lambda text: print(f"{name}: {text}", file=sys.stderr))
    result = {"minutes": seen[2] / 60, "tokens": seen[0], "questions": seen[1]}
    (folder / "minutes.json").write_text(json.dumps(result) + "\n")
    return folder


def score(folder, options):
    """F1 on the benchmark's dev splits and what training took; from the disk if it is there."""
    done = folder / f"result-{options.limit}.json"
    if not done.is_file():
        command = ["evaluate", "--model", folder, "--limit", options.limit, "--threshold", 0]
        command += ["--metric", "gner,strict", "--json", "--no-errors"]
        command += ["--output", folder / "evaluation"]
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):  # here, where prompts may have been changed
            app([str(part) for part in command], standalone_mode=False)
        found = json.loads(printed.getvalue())
        average = {key: found["average"]["gner"][key] for key in ("f1", "low", "high")}
        result = {**average, **json.loads((folder / "minutes.json").read_text())}
        done.write_text(json.dumps(result) + "\n")
    return json.loads(done.read_text())


def table(options):
    lines = ["| arm | F1 | | questions | minutes |", "|---|---|---|---|---|"]
    for name in ARMS:
        done = folder_of(name, options) / f"result-{options.limit}.json"
        if done.is_file():
            found = json.loads(done.read_text())
            low, high = 100 * found["low"], 100 * found["high"]
            lines.append(f"| {name} | {100 * found['f1']:.1f} | {low:.1f} to {high:.1f} | "
                         f"{found['questions']:,} | {found['minutes']:.0f} |")  # fmt: skip
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=ARMS)
    parser.add_argument("--steps", type=int, default=200, help="of 2,600 tokens")
    parser.add_argument("--limit", type=int, default=100, help="dev sentences of each set")
    parser.add_argument("--output", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--table", action="store_true", help="of what is done, nothing is run")
    options = parser.parse_args()
    if not os.environ.get("NOMINA_DATA"):
        sys.exit("set NOMINA_DATA to the folder of the corpora")
    if not options.table:
        for name in options.arms:
            if len(options.arms) > 1:  # `encode` and prompts are changed in processes of their own
                command = [sys.executable, __file__, "--arms", name, "--steps", options.steps]
                command += ["--limit", options.limit, "--output", options.output]
                subprocess.run([str(x) for x in command], check=True, stdout=subprocess.DEVNULL)
            else:
                if "instruction" in ARMS[name]:
                    instruct(ARMS[name]["instruction"])
                score(train_arm(name, options), options)
    print(table(options))


if __name__ == "__main__":
    main()

"""Turn the passages written for nomina into a corpus for the training of the default model.

    python tools/written.py runs/written.jsonl            # convert corpora/written/*.txt
    python tools/written.py --check corpora/written/x.txt # look for slips, write nothing

`corpora/written/README.md` has the format. Every passage is annotated with the whole label set of
its task, so that absence means absence and the most specific label wins. People ask differently of
the same passage, so each is asked in its own way, drawn from the seed: labels under other names,
fine labels left out (what they held goes to their broader label, if the set has one), with and
without definitions. A passage and a seed give the same row, whatever stands beside it.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

FOLDER = Path(__file__).parents[1] / "corpora" / "written"
MARK = re.compile(r"\{\{(.+?)\|([^{}|]+?)\}\}")
LABEL = re.compile(
    r"- (?P<name>[^(<:]+?)(?: \((?P<others>[^)]+)\))?(?: < (?P<parent>[^:]+?))?: (?P<definition>.+)"
)


@dataclass
class Task:
    """A label set and the passages annotated with it."""

    name: str
    place: str
    definitions: dict[str, str] = field(default_factory=dict)
    others: dict[str, list[str]] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    passages: list[tuple[str, list[tuple[int, int, str]]]] = field(default_factory=list)


def parse(path: Path) -> tuple[list[Task], list[str]]:
    """Read the tasks of a file; return them and what is wrong, with file and line."""
    tasks: list[Task] = []
    wrong: list[str] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        place, line = f"{path.name}:{number}", line.strip()
        if not line or (line.startswith("# ") and "{{" not in line):
            continue
        if line.startswith("## ") and "{{" not in line:
            tasks.append(Task(line[3:].strip(), place))
        elif not tasks:
            wrong.append(f"{place}: before the first task: {line[:60]!r}")
        elif not tasks[-1].passages and (match := LABEL.fullmatch(line)):
            name = match["name"].strip()
            tasks[-1].definitions[name] = match["definition"].strip()
            tasks[-1].others[name] = [x.strip() for x in (match["others"] or "").split(",") if x]
            if match["parent"]:
                tasks[-1].parents[name] = match["parent"].strip()
        else:
            text, spans = _passage(line.replace("\\n", "\n"))
            for _, _, label in spans:
                if label not in tasks[-1].definitions:
                    wrong.append(f"{place}: label {label!r} is not in the set of its task")
            if "{{" in text or "}}" in text:
                wrong.append(f"{place}: a mark that is not closed: {text[:80]!r}")
            elif any(text[a:b] != text[a:b].strip() for a, b, _ in spans):
                wrong.append(f"{place}: a mark that begins or ends with a space")
            else:
                tasks[-1].passages.append((text, spans))
    return tasks, wrong


def _passage(line: str) -> tuple[str, list[tuple[int, int, str]]]:
    text, spans, last = "", [], 0
    for match in MARK.finditer(line):
        text += line[last : match.start()]
        spans.append((len(text), len(text) + len(match[1]), match[2].strip()))
        text += match[1]
        last = match.end()
    return text + line[last:], spans


def check(tasks: list[Task]) -> list[str]:
    """Return what looks like a slip: labels never used, the same surface marked and not marked."""
    found = []
    for task in tasks:
        names = list(task.definitions)
        if not 3 <= len(names) <= 20:
            found.append(f"{task.place}: {len(names)} labels in {task.name!r}")
        for name, parent in task.parents.items():
            if parent not in task.definitions:
                found.append(f"{task.place}: {parent!r}, the parent of {name!r}, is not a label")
        used = Counter(label for _, spans in task.passages for _, _, label in spans)
        for name in names:
            if not used[name]:
                found.append(f"{task.place}: {name!r} is never used")
        texts = Counter(text for text, _ in task.passages)
        found += [f"{task.place}: twice: {t[:60]!r}" for t, count in texts.items() if count > 1]
        for text, spans in task.passages:
            for surface in dict.fromkeys(text[a:b] for a, b, _ in spans):
                if len(surface) < 4:
                    continue
                for match in re.finditer(rf"(?<!\w){re.escape(surface)}(?!\w)", text):
                    if not any(a < match.end() and b > match.start() for a, b, _ in spans):
                        found.append(f"{task.place}: {surface!r} once not marked in {text[:60]!r}")
    return found


def record(
    task: Task, text: str, spans: list[tuple[int, int, str]], rng: Random
) -> dict[str, object]:
    """Draw one way to ask for a passage; a record of nomina's own format."""
    names = list(task.definitions)
    wider: set[str] = set()  # labels that hold more than their definition says
    if rng.random() < 0.45:  # ask for fewer labels
        fine = [name for name in names if name not in task.parents.values()]
        count = rng.randint(1, max(1, len(fine) - 2))
        gone = set(rng.sample(fine, min(count, len(names) - 1)))
        wider = {task.parents[x] for x in gone if x in task.parents}
        spans = [(a, b, task.parents.get(x, "") if x in gone else x) for a, b, x in spans]
        spans = [span for span in spans if span[2]]
        names = [name for name in names if name not in gone]
    called = {name: name for name in names}
    for name in names:
        taken = {other.lower() for other in called.values()}
        choices = [x for x in task.others[name] if x.lower() not in taken]
        if choices and rng.random() < 0.3:
            called[name] = rng.choice(choices)
    rng.shuffle(names)
    defined = set(names) - wider if rng.random() < 0.35 else set()
    return {
        "text": text,
        "entities": [
            {"text": text[a:b], "label": called[x], "start": a, "end": b} for a, b, x in spans
        ],
        "label_set": {called[x]: task.definitions[x] if x in defined else "" for x in names},
        "source": f"written: {task.name}",
    }


def main() -> int:
    """Convert or check; the exit status says whether something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("path", type=Path, nargs="?", help="write the corpus here")
    parser.add_argument("--check", type=Path, nargs="+", help="only look for slips in these files")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    paths = args.check or sorted(FOLDER.glob("*.txt"))
    tasks: list[Task] = []
    wrong: list[str] = []
    for path in paths:
        read, errors = parse(path)
        tasks += read
        wrong += errors
    if args.check:
        for line in (*wrong, *check(tasks)):
            print(line)
        for task in tasks:
            marks = sum(len(spans) for _, spans in task.passages)
            num = len(task.definitions), len(task.passages)
            print(f"{task.name}: {num[0]} labels, {num[1]} passages, {marks} marks")
        return bool(wrong)
    if wrong:
        print(*wrong, sep="\n", file=sys.stderr)
        return 1
    if args.path is None:
        parser.error("give a path to write to, or --check")
    rows = [
        # Of each passage alone: others may be added, and files cut anew.
        record(task, text, spans, Random(f"{args.seed}/{task.name}/{text}"))
        for task in tasks
        for text, spans in task.passages
    ]
    args.path.parent.mkdir(parents=True, exist_ok=True)
    args.path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8"
    )
    marks = sum(len(spans) for task in tasks for _, spans in task.passages)
    print(f"{args.path}: {len(rows)} passages of {len(tasks)} tasks, {marks} marks")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Model cards: the README of a trained model, from what is known about its training.

Says what it is, what it was trained on and under which licences, how, how good it was, and what
nobody has looked at. Knows nothing of models or files.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_GEMMA = (
    "A Model Derivative of Gemma: provided under and subject to the Gemma Terms of Use found at "
    "ai.google.dev/gemma/terms, with the use restrictions of the Gemma Prohibited Use Policy. The "
    "base weights have been modified by this training."
)


@dataclass(frozen=True)
class CardData:
    """A set that a model was trained on.

    Attributes:
        name: Of the set or file.
        licence: As its source states it; empty if unknown.
        num_sentences: How many there were.
    """

    name: str
    licence: str
    num_sentences: int


@dataclass(frozen=True)
class Card:
    """What is known about a model.

    Attributes:
        name: Of its folder.
        origin: What the training started from.
        base: The base model below it all.
        method: "lora" or "full".
        format: That it reads and writes.
        data: What it was trained on.
        recipe: Settings that differ from the defaults, or all.
        labels: What it was trained to find, if that is one label set.
        figures: What was measured, name to value.
        notes: What was odd about the data.
        is_measured: Whether there were dev sentences.
        is_calibrated: Whether its scores have a temperature.
        date: Of the end of the training, seconds since 1970. Defaults to now.
    """

    name: str
    origin: str
    base: str
    method: str
    format: str
    data: Sequence[CardData]
    recipe: Mapping[str, Any]
    labels: Sequence[str] = ()
    figures: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    is_measured: bool = False
    is_calibrated: bool = False
    date: float | None = None

    def render(self) -> str:
        """Return the card in Markdown.

        Example:
            >>> card = Card("mine", "default", "gemma-3-270m", "lora", "inline", [], {}, date=0)
            >>> card.render().splitlines()[5]
            '# mine'
        """
        is_gemma = "gemma" in self.base.lower()
        kind = "A LoRA adapter" if self.method == "lora" else "A full model"
        day = time.strftime("%Y-%m-%d", time.gmtime(self.date))
        front = ["---", "library_name: nomina", f"base_model: {self.base}", "tags: [ner]", "---"]
        about = (
            f"{kind} for entity extraction with nomina, trained on {day} from `{self.origin}`"
            f"{f' (base: {self.base})' if self.base != self.origin else ''}, in the "
            f"`{self.format}` format. Load it with `nomina.load(FOLDER)`."
        )
        parts = [
            "\n".join([*front, f"# {self.name}"]),
            about,
            self._use(),
            "## Data\n" + self._data(),
            "## Recipe\n" + _table(self.recipe, "setting"),
            "## Figures\n" + (_table(self.figures, "measured") or "Nothing was measured."),
            "## Limits\n" + self._limits(),
            "## Licence\n" + (_GEMMA if is_gemma else _plain_licence(self.origin)),
        ]
        return "\n\n".join(parts) + "\n"

    def _use(self) -> str:
        wanted = "entities of types that a user names"
        if self.labels:
            names = ", ".join(self.labels[:40]) + (", ..." if len(self.labels) > 40 else "")
            wanted = f"these types: {names}. Other types still work, less well"
        return (
            f"**Intended use.** Finding {wanted}, in text like that it was trained on. Its scores "
            "support a threshold; they do not replace a check where a mistake does harm (law, "
            "medicine, decisions about people). Not for: generating text."
        )

    def _data(self) -> str:
        if not self.data:
            return "Unknown."
        rows = ["| set | sentences | licence |", "|---|---|---|"]
        for item in self.data:
            licence = item.licence or "not known to nomina: whoever trained this must say"
            rows.append(f"| {item.name} | {item.num_sentences} | {licence} |")
        notes = "".join(f"\n- {note}" for note in self.notes)
        return "\n".join(rows) + (f"\n\nNoted while reading it:\n{notes}" if notes else "")

    def _limits(self) -> str:
        measured = (
            "- The figures above are of the dev sentences only, which also chose the checkpoint; "
            "a test set that nobody looked at will be lower.\n"
            if self.is_measured
            else "- How good it is was not measured: there was no dev set.\n"
        )
        scores = (
            "- Scores have the temperature in `calibration.json`, fitted on these dev sentences or "
            "kept from what the training started from. To fit it on others: "
            if self.is_calibrated
            else "- Scores are not calibrated for this model: "
        )
        return (
            f"{measured}{scores}"
            "`nomina evaluate --model FOLDER --data SET --fit-temperature`.\n"
            "- It inherits what its base and its data get wrong, among it unequal quality over "
            "names of different origin, which was not measured."
        )


def _table(values: Mapping[str, Any], head: str) -> str:
    if not values:
        return ""
    rows = [f"| {key} | {value} |" for key, value in values.items()]
    return "\n".join([f"| {head} | |", "|---|---|", *rows])


def _plain_licence(origin: str) -> str:
    return (
        f"That of `{origin}`, which it is derived from, and of the data above; see there. nomina "
        "does not know it."
    )

"""What the states behind a sentence say of its entities, before anything is written.

When the prompt has been read, the model has seen every word of the sentence. Small heads on the
last hidden states of three words (the one before, the word itself, the one behind) guess the
choices at forks: whether an entity begins at a word, whether it goes on, which label it gets. That
is how Medusa drafts (Cai et al. 2024), but over the choices of a grounding instead of the next
tokens. The engine drafts by what they guess. What is chosen is the model's: only speed depends on
them.

Knows states of the `inline` format, and hidden states; no tokenizer, and nothing of decoding.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nomina.environment import give_usual_rights
from nomina.errors import ModelError
from nomina.formats import Guess
from nomina.grounding import Fork, Grounding

FILE_NAME = "draft_heads.safetensors"
PHASES = ("out", "in", "label")

Logits = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Heads:
    """Weights of the heads; one for each phase of the format. All are float32.

    Attributes:
        mix: From the states of three words to features. Shape (phases, 3, width, rank).
        shift: Added to the features. Shape (phases, rank).
        move: From features to the logit of the second move, for the phases of two moves. Shape
            (2, rank).
        move_shift: Added to that. Shape (2,).
        label: From features to the state in which the model would choose the label. Shape
            (rank, width).
    """

    mix: torch.Tensor
    shift: torch.Tensor
    move: torch.Tensor
    move_shift: torch.Tensor
    label: torch.Tensor

    @staticmethod
    def load(folder: Path, width: int) -> Heads | None:
        """Read the heads of a folder, None if it has none.

        Args:
            folder: Of a model.
            width: Of its hidden states.

        Raises:
            ModelError: If they cannot be read, or belong to another model.
        """
        path = folder / FILE_NAME
        if not path.is_file():
            return None
        from safetensors.torch import load_file

        try:
            heads = Heads(**{name: tensor.float() for name, tensor in load_file(path).items()})
        except Exception as error:  # damaged files raise anything
            raise ModelError(
                f"{path} cannot be read: {error}. It is only for speed: remove it."
            ) from error
        rank = heads.shift.shape[-1]
        want = [(3, 3, width, rank), (3, rank), (2, rank), (2,), (rank, width)]
        have = [tuple(tensor.shape) for tensor in vars(heads).values()]
        if have != want:
            raise ModelError(
                f"{path} has shapes {have}, this model needs {want}. It is only for speed: "
                "remove it."
            )
        return heads

    def save(self, folder: str | os.PathLike[str], dtype: torch.dtype = torch.bfloat16) -> None:
        """Write the heads into the folder of their model."""
        from safetensors.torch import save_file

        tensors = {name: tensor.to(dtype).contiguous() for name, tensor in vars(self).items()}
        path = Path(folder) / FILE_NAME
        save_file(tensors, path)
        give_usual_rights(path)

    def mixed(self, states: torch.Tensor) -> torch.Tensor:
        """Return each word's part of the features.

        Args:
            states: Shape (words, width).

        Returns:
            Shape (phases, 3, words, rank): as the word before, as the word, as the word behind.
        """
        return states.float().cpu() @ self.mix

    def features(
        self, mixed: torch.Tensor, phase: int, before: Any, word: Any, behind: Any
    ) -> torch.Tensor:
        """Return the features of words, shape (..., rank); places may be tensors of indices."""
        parts = mixed[phase]
        total = parts[0][before] + parts[1][word] + parts[2][behind] + self.shift[phase]
        return torch.nn.functional.gelu(total)


def word_ends(grounding: Grounding) -> list[int]:
    """Return the place of each word's last token behind the prefix of a prompt.

    Empty for formats whose prompts are not written word by word.
    """
    if not grounding.form.is_piecewise:
        return []
    ends, at = [], -1
    for piece in grounding.sentence.pieces:
        at += len(grounding.lexicon.ids(piece))
        ends.append(at)
    return ends


def places(phase: str, word: int, start: int) -> tuple[int, int, int]:
    """Return which words a head looks at in a state: the one before, the word, the one behind.

    For a label these are the last word of the entity, the one behind it, and the entity's first.
    """
    return (word - 1, word, start) if phase == "label" else (max(word - 1, 0), word, word + 1)


class Foresight:
    """What heads guess of one sentence.

    Args:
        heads: The heads.
        mixed: `Heads.mixed` of the sentence's words and of the last token of the prompt.
        logits: `LanguageModel.choice_logits`.
    """

    def __init__(self, heads: Heads, mixed: torch.Tensor, logits: Logits) -> None:
        self._heads, self._mixed, self._logits = heads, mixed, logits
        self._second: dict[str, list[float]] = {}
        for number, phase in enumerate(PHASES[:2]):
            words = [places(phase, word, -1) for word in range(mixed.shape[2] - 1)]
            features = heads.features(mixed, number, *torch.tensor(words).T)
            logit = features @ heads.move[number] + heads.move_shift[number]
            self._second[phase] = torch.sigmoid(logit).tolist()
        self._labels: dict[Any, Guess] = {}  # by the fork's key

    def better(self, fork: Fork, rule: Guess) -> Guess:
        """Return the better guess at a fork: the heads', or the one that follows from a rule.

        Labels that the model chose for the same words are often surer than what heads guess; no
        rule is where an entity begins or ends.
        """
        guess = self.guess(fork)
        if guess is None or (fork.state.phase == "label" and rule.odds > guess.odds):
            return rule
        return guess

    def guess(self, fork: Fork) -> Guess | None:
        """Guess the choice at a fork, if it is one that heads know of."""
        phase, word, start, _ = fork.state
        if phase == "label":
            return self._label(fork, start, word)
        second = self._second.get(phase, ())
        if word >= len(second):
            return None
        move = int(second[word] > 0.5)
        odds = second[word] if move else 1 - second[word]
        for choice, moves in enumerate(fork.moves):
            if move in moves:
                return Guess(choice, f"foreseen, {phase}, {move}, {round(odds, 1)}", odds)
        return None

    @torch.no_grad()
    def _label(self, fork: Fork, start: int, end: int) -> Guess:
        guess = self._labels.get(fork.key)
        if guess is None:
            words = places("label", end, start)
            features = self._heads.features(self._mixed, 2, *words)
            state = features @ self._heads.label  # (width,)
            ids = torch.tensor([fork.allowed])
            best = self._logits(state.unsqueeze(0), ids)[0].softmax(-1).max(-1)
            odds = best.values.item()
            kind = f"foreseen, label, {round(odds, 1)}"
            guess = self._labels[fork.key] = Guess(int(best.indices), kind, odds)
        return guess


@torch.no_grad()
def foresee(
    heads: Heads, groundings: Sequence[Grounding], states: Sequence[torch.Tensor], logits: Logits
) -> list[Foresight | None]:
    """Return what heads guess of sentences whose prompts were read.

    Args:
        heads: The heads.
        groundings: Of the sentences.
        states: Last hidden states of their `Request.sentence_ids`, shape (tokens, width) each.
        logits: `LanguageModel.choice_logits`.
    """
    picked, sizes = [], []
    for grounding, of_sentence in zip(groundings, states, strict=True):
        ends = word_ends(grounding)
        picked.append(of_sentence[[*ends, -1]] if ends else of_sentence[:0])
        sizes.append(len(picked[-1]))
    mixed = torch.split(heads.mixed(torch.cat(picked)), sizes, dim=2)
    return [Foresight(heads, part, logits) if part.shape[2] else None for part in mixed]

"""What a model that writes freely will probably write next.

Models tuned for tagging copy the text and mark it, so the walk along a grounding's forks is a very
good draft of what they write. Here the walk follows a completion that need not keep to it:

- at a fork, the model's own choice is taken, and where it is not known yet, what the model chose
  when it read the same question behind an earlier draft, else the format's guess;
- where the model leaves the walk (a word misspelt, left out, written twice, a label of its own),
  the walk is taken up again at the place near by that looks most like what was written last;
- where there is no such place, and what was written last stands in the prompt or earlier in the
  completion, what follows it there is the draft (prompt lookup, Saxena 2023): loops are
  followed so.

Only speed depends on it. Knows token ids and forks; no model, and nothing of words or labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from nomina.formats import Guess, State
from nomina.grounding import Fork, Grounding

_NEAR = 48  # ids of the walk that are searched on either side for what was written last
_BESIDE = 8  # ids within which a single equal id is enough to go on there
_MOST_CONTEXT = 4
_READ_ODDS = 0.9  # that a choice made behind another writing is made again


class Place(NamedTuple):
    """Where a walk stands: at a fork, with so many of its forced ids written."""

    fork: Fork
    num_forced: int

    def step(self, token: int) -> Place | None:
        """Return the place behind a token, or nothing if the walk does not lead there."""
        fork, num_forced = self
        if num_forced < len(fork.forced):
            return Place(fork, num_forced + 1) if fork.forced[num_forced] == token else None
        if token in fork.allowed:
            return Place(fork.take(fork.allowed.index(token)), 0)
        return None


class Drafted(NamedTuple):
    """One id of a draft: the place behind it in the walk, and the fork that it decides, if any."""

    token: int
    place: Place
    fork: Fork | None


class Memory:
    """What a model chose at forks, and from that what it will probably choose at others.

    Args:
        grounding: The forks' grounding, which guesses where nothing is known.
    """

    def __init__(self, grounding: Grounding) -> None:
        self._grounding = grounding
        self._guesses: dict[Any, Guess] = {}  # by the fork's key
        self._seen: dict[State, int] = {}  # moves by state, for guesses at other forks

    def learn(self, fork: Fork, choice: int) -> None:
        """Note what the model chooses at a fork, maybe behind another writing."""
        self._guesses[fork.key] = Guess(choice, "read", _READ_ODDS)
        self._seen.pop(fork.state, None)  # the last seen is the last one
        self._seen[fork.state] = fork.moves[choice][0]

    def guess(self, fork: Fork) -> Guess:
        """Return the choice that the model made at this question, else the format's guess."""
        return self._guesses.get(fork.key) or self._grounding.likely(fork, self._seen)


@dataclass(frozen=True)
class DraftConfig:
    """How far a draft looks ahead.

    Attributes:
        max_tokens: Ids in a draft, at most.
        certainty: A draft ends where the probability that all of it is right falls below this,
            because what is read behind a wrong guess is read again.
        first_tokens: Ids in the draft right after the model has left the walk; each draft that
            proves right makes the next one four times as long.
    """

    max_tokens: int = 256
    certainty: float = 0.07  # a reading costs about as much as 100 tokens besides its own
    first_tokens: int = 8


class Drafter:
    """Drafts the rest of one completion again and again, while the model writes it.

    Args:
        grounding: The walk that the model is expected to keep to.
        prompt_ids: The prompt.
        config: How far a draft looks ahead.

    Attributes:
        open: Forks that the last draft decides: index in the draft, and the fork.
    """

    def __init__(
        self, grounding: Grounding, prompt_ids: Sequence[int], config: DraftConfig | None = None
    ) -> None:
        self.open: list[tuple[int, Fork]] = []
        self._config = config or DraftConfig()
        self._place = Place(grounding.start(), 0)
        self._trail: list[tuple[int, Place]] = []  # ids of the walk passed, and the place behind
        self._text = list(prompt_ids)  # with what was written
        self._num_prompt = len(self._text)
        self._ngrams: dict[tuple[int, ...], int] = {}  # to the position behind the last occurrence
        self._num_indexed = 0
        self._copy_from = -1  # position in the text that is being copied, or -1
        self._window = self._config.max_tokens
        self._memory = Memory(grounding)

    def draft(self, limit: int) -> list[int]:
        """Return what will probably be written next: at most `limit` ids, maybe none."""
        limit = min(limit, self._window)
        self.open = []
        if self._copy_from >= 0:
            start, size = self._copy_from, len(self._text)
            out: list[int] = []
            for at in range(start, start + limit):  # what is copied may go on into the draft
                out.append(self._text[at] if at < size else out[at - size])
            return out
        ahead = self._ahead(limit, self._config.certainty)
        self.open = [(at, item.fork) for at, item in enumerate(ahead) if item.fork]
        return [item.token for item in ahead]

    def expected_length(self) -> int:
        """Return how many ids the rest of the walk has, as guessed now."""
        return len(self._ahead(1 << 30))

    def learn(self, fork: Fork, choice: int) -> None:
        """Note what the model would choose at a fork that it read behind the last draft."""
        self._memory.learn(fork, choice)

    def write(self, ids: Sequence[int], is_as_drafted: bool) -> None:
        """Follow what the model wrote.

        Args:
            ids: The ids that it wrote since the last draft.
            is_as_drafted: Whether all of the last draft was right.
        """
        if is_as_drafted:
            self._window = min(4 * self._window, self._config.max_tokens)
        for token in ids:
            if self._copy_from >= 0:
                is_right = self._text[self._copy_from] == token
                self._text.append(token)
                self._copy_from += 1
                if not is_right:
                    self._find()
                continue
            self._text.append(token)
            after = self._place.step(token)
            if after is None:
                self._find()
                continue
            if after.fork is not self._place.fork:
                self.learn(self._place.fork, self._place.fork.allowed.index(token))
            self._trail.append((token, after))
            self._place = after

    def _ahead(self, limit: int, certainty: float = 0.0) -> list[Drafted]:
        place, out = self._place, list[Drafted]()
        all_right = 1.0
        while len(out) < limit:
            fork, num_forced = place
            for token in fork.forced[num_forced : num_forced + limit - len(out)]:
                num_forced += 1
                out.append(Drafted(token, Place(fork, num_forced), None))
            if not fork.allowed or len(out) >= limit:
                break
            guess = self._memory.guess(fork)
            all_right *= guess.odds
            place = Place(fork.take(guess.move), 0)
            out.append(Drafted(fork.allowed[guess.move], place, fork))
            if all_right < certainty:
                break
        return out

    # The model has left the walk, or what was being copied

    def _find(self) -> None:
        """Decide where to draft from, now that the last id was not expected."""
        self._window = self._config.first_tokens
        self._copy_from = -1
        ahead = self._ahead(_NEAR)
        if self._rejoin([], ahead):
            return
        found = self._look_up()
        # A loop goes on; something written twice by a slip is as well copied as walked again.
        if found < self._num_prompt and self._rejoin(self._trail[-_NEAR:], ahead):
            return
        self._copy_from = found
        if found < 0 and ahead:  # take what was written for what should have been
            self._trail.append((ahead[0].token, ahead[0].place))
            self._place = ahead[0].place

    def _rejoin(self, behind: Sequence[tuple[int, Place]], ahead: Sequence[Drafted]) -> bool:
        """Take the walk up where it looks like what was written last, the closest such place."""
        walk = [*behind, *((item.token, item.place) for item in ahead)]
        best, best_at = (0, 0), -1
        written = self._text[self._num_prompt :][-_MOST_CONTEXT:]
        for at, (token, _) in enumerate(walk):
            if token != written[-1]:
                continue
            context = 1
            while context < min(len(written), at + 1) and (
                walk[at - context][0] == written[-1 - context]
            ):
                context += 1
            distance = abs(at - len(behind))
            if (context > 1 or distance <= _BESIDE) and (context, -distance) > best:
                best, best_at = (context, -distance), at
        if best_at < 0:
            return False
        self._trail = [*self._trail[: len(self._trail) - len(behind)], *walk[: best_at + 1]]
        self._place = walk[best_at][1]
        return True

    def _look_up(self) -> int:
        """Return the position behind the last earlier occurrence of what was written last."""
        text = self._text
        for end in range(self._num_indexed, len(text) - 1):
            for size in range(2, _MOST_CONTEXT + 1):
                if size <= end + 1:
                    self._ngrams[tuple(text[end + 1 - size : end + 1])] = end + 1
        self._num_indexed = max(self._num_indexed, len(text) - 1)
        for size in range(_MOST_CONTEXT, 1, -1):
            found = self._ngrams.get(tuple(text[-size:]))
            if found is not None:
                return found
        return -1

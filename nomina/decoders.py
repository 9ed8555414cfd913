"""Decoders of encoder-decoder models with a memory: each token is read once, not in every pass.

The encoder reads a prompt once; the decoder's keys and values are kept by slot, and cut back where
something else was written than was read. Rows are read one by one, because such decoders (T5) count
positions from the length of their cache, so that rows of unequal length have no pass in common.

Knows token ids and models; nothing of forks, drafts or labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from transformers import DynamicCache, EncoderDecoderCache

from nomina.families import decoder_of, start_id
from nomina.models import LanguageModel


class _Row(NamedTuple):
    states: torch.Tensor  # of the encoder, shape (1, length, width)
    mask: torch.Tensor  # (1, length)
    cache: EncoderDecoderCache


class CachedDecoder:
    """Reads ids with the decoder of a model, by slot.

    Args:
        model: An encoder-decoder model.

    Attributes:
        start_id: What stands at position 0 of every row, before the first id of a completion.
    """

    def __init__(self, model: LanguageModel) -> None:
        self.start_id = start_id(model.module)
        self._model = model
        self._rows: dict[int, _Row] = {}

    def open(self, slot: int, prompt_ids: Sequence[int]) -> None:
        """Encode a prompt, and forget what the slot held before."""
        module, device = self._model.module, self._model.device
        ids = torch.tensor([list(prompt_ids)], device=device)
        states = module.get_encoder()(input_ids=ids).last_hidden_state
        layers = decoder_of(module).config  # the decoder's, which may have more than the encoder
        own, cross = (DynamicCache(config=layers) for _ in range(2))
        self._rows[slot] = _Row(states, torch.ones_like(ids), EncoderDecoderCache(own, cross))

    def close(self, slot: int) -> None:
        """Forget what a slot holds."""
        self._rows.pop(slot, None)

    def read(self, rows: Sequence[tuple[int, int, Sequence[int]]]) -> torch.Tensor:
        """Run the decoder over ids of rows, forgetting what it had read from there on.

        Args:
            rows: For each row its slot, the position of its first id, and its ids. Everything
                before that position must have been read.

        Returns:
            Last hidden states of all ids, end to end. Shape (ids, width).
        """
        out = []
        for slot, start, ids in rows:
            states, mask, cache = self._rows[slot]
            if surplus := cache.get_seq_length() - start:  # crop(0) empties it in transformers 5.0
                cache.crop(-surplus)
            tokens = torch.tensor([list(ids)], device=self._model.device)
            out.append(self._model.hidden(tokens, cache=cache, encoded=(states, mask))[0])
        return torch.cat(out)  # (ids, width)

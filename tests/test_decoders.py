"""A decoder with a memory says what one without it says, whatever was read before."""

from __future__ import annotations

import random

import pytest
import torch

from nomina.decoders import CachedDecoder


@torch.inference_mode()
def test_what_was_read_before_makes_no_difference(build_model):
    model = build_model("t5", "gner", 4)
    decoder = CachedDecoder(model)
    rng = random.Random(4)
    prompts = {slot: rng.choices(range(2, 300), k=rng.randint(1, 20)) for slot in range(3)}
    written = {}
    for slot, prompt in prompts.items():
        decoder.open(slot, prompt)
        written[slot] = [decoder.start_id]
        decoder.read([(slot, 0, written[slot])])
    for _ in range(12):
        rows = []
        for slot in rng.sample(sorted(prompts), rng.randint(1, 3)):
            start = rng.randint(1, len(written[slot]))
            ids = rng.choices(range(2, 300), k=rng.randint(1, 9))
            written[slot] = [*written[slot][:start], *ids]
            rows.append((slot, start, ids))
        have = decoder.read(rows)
        want = []
        for slot, start, _ in rows:
            ids = torch.tensor([prompts[slot]])
            states = model.module.get_encoder()(input_ids=ids).last_hidden_state
            encoded = states, torch.ones_like(ids)
            want.append(model.hidden(torch.tensor([written[slot]]), encoded=encoded)[0, start:])
        assert have.tolist() == [pytest.approx(row, abs=1e-3) for row in torch.cat(want).tolist()]


@torch.inference_mode()
def test_a_slot_forgets_what_it_held(build_model):
    decoder = CachedDecoder(build_model("t5", "gner", 4))
    decoder.open(0, [5, 6])
    first = decoder.read([(0, 0, [0, 7, 8])])
    decoder.open(0, [9])
    assert not torch.equal(decoder.read([(0, 0, [0, 7, 8])]), first)
    decoder.open(0, [5, 6])
    assert torch.allclose(decoder.read([(0, 0, [0, 7, 8])]), first, atol=1e-4)

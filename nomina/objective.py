"""What is minimised, and how attention is computed while it is.

Two objectives. `decisions` asks what grounded decoding will ask: at every choice the likelihood of
the right one *among the allowed ids*, so that no capacity goes into copying and no softmax into the
262 thousand ids that cannot come. `tokens` is GNER's: the likelihood of the whole completion over
the whole vocabulary.

Knows batches as `batches.collate` makes them; nothing of optimisers or data.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface

from nomina.batches import PREFIX
from nomina.families import decoder_of, head_of, plain_module, text_config
from nomina.models import choice_logits

_CHUNK = 128  # positions whose logits over the vocabulary are in memory at once


class Objective(torch.nn.Module):
    """The model with its loss, as one module, so that data parallelism sees one forward pass.

    Args:
        module: A Hugging Face model, with or without adapters.
        kind: "decisions" or "tokens".
    """

    accepts_loss_kwargs = False  # Trainer: the loss is a mean, divide it by the passes of a step

    def __init__(self, module: Any, kind: str = "decisions") -> None:
        super().__init__()
        self.module = module
        self.kind = kind
        # FSDP shares the weights of these classes out one by one.
        self._no_split_modules = getattr(plain_module(module), "_no_split_modules", None)

    def forward(self, **batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the loss, and for decisions the share with the right one on top."""
        hidden = self._hidden(batch)  # (batch, length, width)
        hidden = hidden.flatten(0, 1)  # (batch * length, width)
        if self.kind == "tokens":
            return {"loss": self._token_loss(hidden, batch)}
        chosen = hidden[batch["choice_index"]]  # (choices, width)
        logits = choice_logits(self.module, chosen, batch["choice_ids"])  # (choices, k)
        logits = logits.masked_fill(~batch["choice_mask"], float("-inf"))
        loss = (torch.logsumexp(logits, -1) - logits[:, 0]).mean()
        right = (logits.argmax(-1) == 0).float().mean()
        return {"loss": loss, "accuracy": right.detach()}

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Trade time for memory; the Trainer calls this if `[trainer]` says so."""
        self._base().activation_checkpointing_enable(**options)

    def _base(self) -> Any:
        base = self.module
        return base.get_base_model() if hasattr(base, "get_base_model") else base

    def _hidden(self, batch: dict[str, torch.Tensor]) -> Any:
        decoder = decoder_of(self.module)
        ids = batch["input_ids"]
        if "encoder_ids" in batch:
            mask = batch["encoder_mask"].long()  # LongT5 subtracts it
            encoded = self._base().get_encoder()(
                input_ids=batch["encoder_ids"], attention_mask=mask
            )
            return decoder(
                input_ids=ids,
                encoder_hidden_states=encoded.last_hidden_state,
                encoder_attention_mask=mask,
                use_cache=False,
            ).last_hidden_state
        if "segments" in batch:
            config, dtype = self._base().config, self._base().dtype
            mask = packed_mask(config, batch["segments"], batch["positions"], dtype)
            return decoder(
                input_ids=ids,
                attention_mask=mask,
                position_ids=batch["positions"],
                use_cache=False,
            ).last_hidden_state
        return decoder(input_ids=ids, use_cache=False).last_hidden_state

    def _token_loss(self, hidden: torch.Tensor, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        index = batch["target_mask"].flatten().nonzero().squeeze(-1)
        ids = batch["input_ids"].flatten()
        base = self._base()
        head, hidden, cap = head_of(base, hidden)  # as decoding has it

        def part_loss(rows: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
            logits = head(rows).float()  # (part, vocabulary)
            if cap:
                logits = torch.tanh(logits / cap) * cap
            return torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")

        total = hidden.new_zeros((), dtype=torch.float32)
        for part in torch.split(index, _CHUNK):
            # Logits are computed again on the way back: kept, they would take gigabytes.
            loss: Any = checkpoint(part_loss, hidden[part], ids[part + 1], use_reentrant=False)
            total = total + loss
        return total / max(len(index), 1)


# --------------------------------------------------------------------------------------------------
# Who sees whom


def can_pack(config: Any) -> bool:
    """Say whether a model takes the masks that packed rows need."""
    kinds = set(getattr(text_config(config), "layer_types", None) or ())
    return not config.is_encoder_decoder and kinds <= {"full_attention", "sliding_attention"}


def packed_mask(
    config: Any, segments: torch.Tensor, positions: torch.Tensor, dtype: torch.dtype
) -> Any:
    """Return what is added to the scores of attention in packed rows.

    A token sees what stands before it of its own sentence and of the prompt, within the sliding
    window where a layer has one; the window counts positions, as if the sentence stood alone.

    Args:
        config: Of the model.
        segments: `PREFIX`, `PADDING`, or the sentence's number. Shape (batch, length).
        positions: Shape (batch, length).
        dtype: Of the scores.

    Returns:
        0 or the lowest number, shape (batch, 1, length, length); by kind of layer if the model has
        several.
    """
    config = text_config(config)
    length = segments.shape[1]
    order = torch.arange(length, device=segments.device)
    seen = order.unsqueeze(0) <= order.unsqueeze(1)  # (query, key)
    keys, queries = segments.unsqueeze(1), segments.unsqueeze(2)
    seen = seen & ((keys == PREFIX) | (keys == queries))  # (batch, query, key)
    distance = positions.unsqueeze(2) - positions.unsqueeze(1)

    def added(window: int | None) -> torch.Tensor:
        # Padding sees itself: a row that sees nothing would be NaN.
        allowed = seen & (distance < window) if window else seen
        mask = torch.zeros(allowed.shape, dtype=dtype, device=segments.device)
        return mask.masked_fill(~allowed, torch.finfo(dtype).min).unsqueeze(1)

    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None)
    if not kinds:
        return added(window)
    return {k: added(window if k == "sliding_attention" else None) for k in set(kinds)}


# --------------------------------------------------------------------------------------------------
# Speed on CPUs

FOLDED = "nomina_folded"
_FOLDABLE = ("gemma3_text", "llama", "mistral", "qwen2", "qwen3")


def folded_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention with the query heads that share a key head folded into one product.

    1.08 times the speed of repeating the keys for gemma-3-270m, which has four query heads to one
    key head, on a core with avx512_bf16.

    Args:
        module: The attention layer.
        query: Shape (batch, heads, length, width).
        key: Shape (batch, key heads, length, width).
        value: Shape (batch, key heads, length, width).
        attention_mask: What is added to the scores, shape (batch, 1, length, length). Defaults to
            all earlier tokens, which is right for rows padded on the right.
        scaling: Of the scores. Defaults to `width ** -0.5`.
        sliding_window: How far back a query sees, where there is no mask.

    Returns:
        Shape (batch, length, heads, width), and no weights.
    """
    batch, heads, length, width = query.shape
    groups = key.shape[1]
    folded = (query * (width**-0.5 if scaling is None else scaling)).reshape(
        batch, groups, heads // groups * length, width
    )
    scores = torch.matmul(folded, key.transpose(2, 3)).view(batch, heads, length, length).float()
    if attention_mask is None:
        order = torch.arange(length, device=query.device)
        distance = order.view(-1, 1) - order.view(1, -1)
        hidden = distance < 0
        if sliding_window:
            hidden = hidden | (distance >= sliding_window)
        scores = scores.masked_fill(hidden, float("-inf"))
    else:
        scores = scores + attention_mask.float()
    weights = torch.softmax(scores, -1).to(query.dtype)
    seen = torch.matmul(weights.view(batch, groups, heads // groups * length, length), value)
    return seen.view(batch, heads, length, width).transpose(1, 2).contiguous(), None


AttentionInterface.register(FOLDED, folded_attention)


def fold_attention(module: Any) -> bool:
    """Make a model compute attention by `folded_attention` if it is on a CPU and of a known kind.

    Returns:
        Whether it does now.
    """
    config: Any = module.config
    dropout: Any = getattr(config, "attention_dropout", None)
    if getattr(config, "model_type", "") not in _FOLDABLE or dropout or module.device.type != "cpu":
        return False
    config._attn_implementation = FOLDED
    return True


def compile_layers(module: Any) -> str:
    """Compile each layer of the decoder by itself, for rows of any length.

    Args:
        module: The model, with or without adapters; `plain_layers` runs it uncompiled.

    Returns:
        Why it was not done; empty if it was.
    """
    compilers = [os.environ.get("CXX", ""), "g++", "clang++", "c++"]
    if module.device.type == "cpu" and not any(name and shutil.which(name) for name in compilers):
        return "layers are not compiled, because there is no C++ compiler (looked for g++, clang++)"
    layers = getattr(decoder_of(module), "layers", None)
    if not layers:
        return "layers are not compiled: this kind of model has none that can be"
    import torch._dynamo

    torch._dynamo.config.cache_size_limit = 64  # one entry for each layer at least
    torch._dynamo.config.suppress_errors = True  # slower is better than stopping
    for layer in layers:
        layer.forward = torch.compile(layer.forward, dynamic=True)
    return ""


@contextlib.contextmanager
def plain_layers(module: Any) -> Iterator[None]:
    """Run compiled layers as they were written: other inputs would be compiled anew."""
    layers = [x for x in getattr(decoder_of(module), "layers", ()) if "forward" in vars(x)]
    compiled = [layer.forward for layer in layers]
    for layer in layers:
        del layer.forward
    try:
        yield
    finally:
        for layer, forward in zip(layers, compiled, strict=True):
            layer.forward = forward

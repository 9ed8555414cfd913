"""What families of models do in their own way, where states, logits or attention depend on it.

One place knows where a family keeps its decoder and its settings, how it scales and caps logits,
and what its attention adds to scores. What cannot be read exactly is refused, by `check_family` or
in the reading, never read nearly.

Knows the modules and configs of transformers; nothing of formats, requests or batches.
"""

from __future__ import annotations

from typing import Any

import torch

from nomina.errors import ModelError
from nomina.kernels import has_fast_bfloat16

# Other kinds (convolutions, state spaces, chunks) look across rows that are packed end to end.
_KINDS = {"full_attention", "sliding_attention", "attention"}
# Arguments of attention that change what it computes, and that `attend` knows nothing of.
_UNKNOWN = ("position_bias", "indices", "sinks", "block_indices")
_REFUSED = {  # what settings do not show, in the older versions of transformers at least
    "doge": "makes masks of its own",
    "falcon_h1": "has layers of state spaces",
    "recurrent_gemma": "has recurrent layers",
}
_SCALED_BY_LENGTH = ("longrope", "dynamic")


def plain_module(module: Any) -> Any:
    """Return a model without the wrapper of its adapters."""
    return module.get_base_model() if hasattr(module, "get_base_model") else module


def text_config(config: Any) -> Any:
    """Return the settings of a model's language part: models of several senses keep them apart."""
    return getattr(config, "text_config", None) or config


def decoder_of(module: Any) -> Any:
    """Return the part of a model that turns ids into hidden states, its adapters included.

    Raises:
        ModelError: If the family keeps it elsewhere, which is true of the older ones.
    """
    module = plain_module(module)
    name = "decoder" if module.config.is_encoder_decoder else "model"
    if not hasattr(module, name):
        raise _refusal(module.config, f"has no part named {name!r}")
    return getattr(module, name)


def start_id(module: Any) -> int:
    """Return what stands before the first id of a completion, in an encoder-decoder model."""
    module = plain_module(module)
    for settings in (getattr(module, "generation_config", None), module.config):
        found = getattr(settings, "decoder_start_token_id", None)
        if found is not None:
            return int(found)
    return int(getattr(module.config, "pad_token_id", None) or 0)


def head_of(module: Any, hidden: torch.Tensor) -> tuple[Any, torch.Tensor, float | None]:
    """Return the head of a model, what it is given, and where its logits are capped."""
    module = plain_module(module)
    config, text = module.config, text_config(module.config)
    hidden = hidden * logit_scale(text)
    # T5 1.1 (FLAN, GNER-T5) and mT5 do not scale, whatever their config says of tied embeddings.
    scales = getattr(config, "scale_decoder_outputs", config.model_type != "mt5")
    if config.is_encoder_decoder and scales and config.tie_word_embeddings:
        hidden = hidden * config.d_model**-0.5  # T5 scales before a tied head
    cap = getattr(text, "final_logit_softcapping", None) or getattr(text, "logits_soft_cap", None)
    return module.get_output_embeddings(), hidden, cap


def logit_scale(config: Any) -> float:
    """Return what a family multiplies its logits by: Granite, MiniCPM 3, HyperCLOVA X, Cohere."""
    divisor = getattr(config, "logits_scaling", None)
    if divisor is not None:
        return float(divisor if config.model_type.startswith("hyperclovax") else 1 / divisor)
    scale = getattr(config, "logit_scale", None)
    return 1.0 if scale is None else float(scale)


def no_mask(config: Any) -> Any:
    """Return what keeps a model from building masks that our attention does not use."""
    kinds = getattr(text_config(config), "layer_types", None)
    return dict.fromkeys(kinds) if kinds else None


# --------------------------------------------------------------------------------------------------
# What cannot be read exactly


def check_family(module: Any) -> None:
    """Check that nomina can read a model as the model reads itself, as far as its settings say.

    Raises:
        ModelError: If it has layers that are not attention, masks that depend on what is read, or
            keeps its decoder elsewhere.
    """
    decoder = decoder_of(module)
    config = plain_module(module).config
    if config.is_encoder_decoder:
        if not hasattr(decoder, "block"):
            raise _refusal(config, "is not of the family of T5")
        if hasattr(config, "expert_capacity"):  # Switch
            raise _refusal(config, "drops tokens where too many at once go to one expert")
        return
    if config.model_type in _REFUSED:
        raise _refusal(config, _REFUSED[config.model_type])
    text = text_config(config)
    kinds = set(getattr(text, "layer_types", None) or ()) | set(
        getattr(text, "layers_block_type", None) or ()
    )
    if odd := sorted(kinds - _KINDS):
        raise _refusal(config, f"has layers of {', '.join(odd)}, which are not attention")


def check_length(config: Any, length: int) -> None:
    """Check that no other row can change how a row of a length is read.

    Raises:
        ModelError: If positions are stretched by the longest row of a batch, and this one is so
            long that they would be.
    """
    text = text_config(config)
    rope = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    kind = rope.get("rope_type") or rope.get("type") if isinstance(rope, dict) else None
    if kind not in _SCALED_BY_LENGTH:
        return
    made_for = rope.get("original_max_position_embeddings") or getattr(
        text, "original_max_position_embeddings", None
    )
    made_for = made_for or text.max_position_embeddings
    if length > made_for:
        raise ModelError(
            f"{length} tokens at once, but {config.model_type} stretches positions of rows over "
            f"{made_for} tokens, and so reads all others of a batch in another way, too. Ask for "
            "fewer labels at once, or show fewer or shorter demonstrations"
        )


def _refusal(config: Any, why: str) -> ModelError:
    return ModelError(
        f"models of the kind {config.model_type!r} cannot be read exactly: it {why}. "
        "Decoder-only models of attention (Gemma, Llama, Mistral, Qwen, Phi 3, OLMo, Granite ...) "
        "and the family of T5 can"
    )


# --------------------------------------------------------------------------------------------------
# Attention over kept keys


class Visits:
    """Which layers took part in a reading with our attention, each once or not at all.

    Args:
        config: Of the model.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self._layers: set[int] = set()

    def enter(self, layer: Any) -> None:
        """Note that a layer calls attention.

        Raises:
            ModelError: If it has done so before.
        """
        if layer.layer_idx in self._layers:
            raise _refusal(self._config, "calls attention twice in a layer")
        self._layers.add(layer.layer_idx)

    def check(self) -> None:
        """Check that the reading was ours.

        Raises:
            ModelError: If no layer called our attention.
        """
        if not self._layers:
            raise _refusal(self._config, "has attention that cannot be replaced")


def window_of(module: Any, passed: int | None) -> int | None:
    """Return how far back a layer sees; some families build a mask and do not pass it on."""
    config = module.config
    window: int | None = getattr(config, "sliding_window", None)
    if passed is not None or not window:
        return passed
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return window if kinds[module.layer_idx] == "sliding_attention" else None
    return None if hasattr(config, "use_sliding_window") else window


def favours_products(tensor: torch.Tensor) -> bool:
    """Return whether attention is faster as two products than as torch's fused operator.

    It is for bfloat16 on CPUs that compute in it: about three times for the default model on one
    core with avx512_bf16, if keys lie so that a step in memory is a step in position.
    """
    return tensor.device.type == "cpu" and tensor.dtype == torch.bfloat16 and has_fast_bfloat16()


# More scores than these are not held at once. Products copy keys of several heads, which takes
# longer than it saves where they are many. Both are left to the operator.
_MOST_SCORES = 1 << 24
_MOST_KEYS = 1 << 23


def attend(
    module: Any,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor,
    scaling: float | None,
    rest: dict[str, Any],
) -> torch.Tensor:
    """Attention of queries that are grouped by the key head that they share.

    Args:
        module: The attention layer.
        query: Shape (rows, key heads, groups * queries, width).
        keys: Shape (rows, key heads, keys, width).
        values: Shape (rows, key heads, keys, value width).
        mask: What is added to scores, or what is seen (bool); goes with shape (rows, 1, groups *
            queries, keys).
        scaling: Of the scores. Defaults to `width ** -0.5`.
        rest: What else the layer says: `softcap` (Gemma 2), `s_aux` (the sinks of GPT-OSS, a score
            for each head, of which nothing is seen), and what makes no difference here.

    Returns:
        Shape (rows, key heads, groups * queries, value width).

    Raises:
        ModelError: If it says something that changes scores and is not known.
    """
    if odd := [name for name in _UNKNOWN if rest.get(name) is not None]:
        raise _refusal(module.config, f"calls attention with {', '.join(odd)}")
    cap, sinks = rest.get("softcap"), rest.get("s_aux")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    is_seen = mask.dtype == torch.bool
    if cap is None and sinks is None:
        is_large = query.shape[:3].numel() * keys.shape[2] > _MOST_SCORES
        if (
            is_large
            or (keys.shape[1] > 1 and keys.numel() > _MOST_KEYS)
            or not favours_products(query)
        ):
            if keys.stride(-1) != 1:  # torch would hold all scores
                keys = keys.contiguous()
            return torch.nn.functional.scaled_dot_product_attention(
                query, keys, values, attn_mask=mask, scale=scale
            )
        scores = (query * scale) @ keys.transpose(2, 3)
        scores = scores.masked_fill_(~mask, float("-inf")) if is_seen else scores.add_(mask)
        return torch.softmax(scores, -1) @ values  # softmax sums in float32
    scores = query @ keys.transpose(2, 3) * scale
    if cap is not None:
        scores = torch.tanh(scores / cap) * cap
    scores = scores.masked_fill(~mask, float("-inf")) if is_seen else scores + mask
    scores = scores.float()  # (rows, key heads, groups * queries, keys)
    if sinks is not None:
        rows, key_heads, num_queries = scores.shape[:3]
        groups = sinks.numel() // key_heads
        added = sinks.float().view(1, key_heads, groups, 1)
        added = added.expand(rows, -1, -1, num_queries // groups).reshape(rows, key_heads, -1, 1)
        scores = torch.cat([scores, added], -1)
    weights = torch.softmax(scores, -1)[..., : keys.shape[2]]
    return weights.to(query.dtype) @ values

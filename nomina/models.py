"""Language models behind one face: weights, tokenizer, format and template, loaded and saved.

A model is a folder (or hub id) that holds a full model, or a LoRA adapter with the name of its
base. Beside the weights `nomina.json` may say how to talk to it (`ModelConfig`); published GNER
checkpoints have none and are recognised by their kind. Weights are read from safetensors alone, and
code that comes with a model is never run.

Knows how prompts become token ids; knows nothing of decoding.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from nomina.base import BASE_NAME, prepare_base, quiet_libraries
from nomina.environment import give_usual_rights
from nomina.errors import ModelError
from nomina.families import check_family, decoder_of, head_of, start_id, text_config
from nomina.formats import Format, Prompt, get_format
from nomina.grounding import Lexicon
from nomina.heads import Heads
from nomina.kernels import has_fast_bfloat16

CONFIG_NAME = "nomina.json"
DEFAULT_ADAPTER = "default"
_OFFLINE_NAMES = ("NOMINA_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
_CHOICES = 4, 32  # rows of at most so many ids are computed together
_ADAPTERS = Path(__file__).parent / "adapters"


@dataclass(frozen=True)
class ModelConfig:
    """How to talk to a model; saved beside its weights as `nomina.json`.

    Attributes:
        format: Name of the format that it was trained on.
        template: "plain", or "inst" for `[INST] ... [/INST]` around the prompt (LLaMA-type GNER).
        base: Name of the base model of an adapter: our own embedded one, a folder, or a hub id.
        threshold: Scores below it are dropped unless the caller says otherwise.
        max_words: Words that a window may have at most, for texts longer than training saw.
    """

    format: str = "inline"
    template: str = "plain"
    base: str = ""
    threshold: float = 0.0
    max_words: int = 100

    @staticmethod
    def read(folder: Path) -> ModelConfig | None:
        """Read `nomina.json` of a folder, None if it has none.

        Raises:
            ModelError: If it is malformed or has unknown keys.
        """
        path = folder / CONFIG_NAME
        if not path.is_file():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            return ModelConfig(**values)
        except (ValueError, TypeError) as error:
            raise ModelError(f"{path} cannot be read: {error}") from error


class LanguageModel:
    """A causal or encoder-decoder language model with its tokenizer and its ways.

    Args:
        module: A Hugging Face model.
        tokenizer: Its tokenizer.
        config: How to talk to it.
        name: What to call it in messages and results.
        folder: Where it was loaded from, if it was.
        heads: Guess what it will choose, for speed alone.
    """

    def __init__(
        self,
        module: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: ModelConfig | None = None,
        name: str = "",
        folder: Path | None = None,
        heads: Heads | None = None,
    ) -> None:
        self.folder = folder
        self.heads = heads
        self.module = module.eval()
        self.tokenizer = tokenizer
        self.config = config or ModelConfig()
        self.name = name
        self.format: Format = get_format(self.config.format)
        check_family(module)
        self.is_encoder_decoder = bool(module.config.is_encoder_decoder)
        self.start_id = start_id(module) if self.is_encoder_decoder else None
        eos_id = tokenizer.eos_token_id
        if eos_id is None:
            raise ModelError(f"{name or 'the model'}: its tokenizer has no end-of-sequence token")
        self._is_plain = self._encode("a b") == self._encode("a") + self._encode(" b")
        self.lexicon = Lexicon(self.encode_piece, eos_id, tokenizer.unk_token_id)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        device: torch.device = self.module.device
        return device

    def _encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        try:
            ids = self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        except (UnicodeEncodeError, TypeError):  # lone surrogates; positions do not suffer
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            ids = self.tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return list(ids)

    def encode_piece(self, text: str) -> list[int]:
        """Return the ids of a string as it stands inside a longer one.

        Tokenizers that put a space before every text they are given (SentencePiece in T5 and
        LLaMA) would turn a piece into another; it is then encoded behind an anchor.
        """
        if self._is_plain:
            return self._encode(text)
        for anchor in (")", "\n", ".", "x"):
            ids, anchor_ids = self._encode(anchor + text), self._encode(anchor)
            if ids[: len(anchor_ids)] == anchor_ids:
                return ids[len(anchor_ids) :]
        return self._encode(text)

    def prefix_ids(self, prompt: Prompt) -> list[int]:
        """Return the ids of the part of the prompt that all sentences of a call share.

        Empty for formats whose prompt is tokenised as a whole.
        """
        if not self.format.is_piecewise:
            return []
        bos = self.tokenizer.bos_token_id
        start = [] if bos is None or self.is_encoder_decoder else [bos]
        return start + self._encode(self._before + prompt.prefix)

    def sentence_ids(self, prompt: Prompt) -> list[int]:
        """Return the ids of the rest of the prompt, behind `prefix_ids`."""
        if not self.format.is_piecewise:
            text = self._before + prompt.text + self._after
            return self._encode(text, add_special_tokens=True)
        ids: list[int] = []
        for piece in prompt.pieces:
            ids += self.lexicon.ids(piece)
        ids += self.lexicon.ids(prompt.suffix + self._after)
        return [*ids, self.tokenizer.eos_token_id] if self.is_encoder_decoder else ids

    @property
    def _before(self) -> str:
        return "[INST] " if self.config.template == "inst" else ""

    @property
    def _after(self) -> str:
        return " [/INST]" if self.config.template == "inst" else ""

    def hidden(
        self,
        input_ids: torch.Tensor,
        attention_mask: Any = None,
        position_ids: torch.Tensor | None = None,
        cache: Any = None,
        encoded: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Run the model (or the decoder) and return its last hidden states.

        Args:
            input_ids: Shape (batch, length).
            attention_mask: What each position may see, in the model's own form. Defaults to all
                earlier positions, which is right for rows padded on the right.
            position_ids: Shape (batch, length). Defaults to 0, 1, 2 ...
            cache: Keys and values of earlier positions, which is also written to.
            encoded: Output and mask of the encoder, for encoder-decoder models.

        Returns:
            Shape (batch, length, width).
        """
        rest: dict[str, Any] = {"past_key_values": cache, "use_cache": cache is not None}
        if encoded is None:
            rest["position_ids"] = position_ids
        else:
            rest["encoder_hidden_states"], rest["encoder_attention_mask"] = encoded
        output = decoder_of(self.module)(input_ids=input_ids, attention_mask=attention_mask, **rest)
        states: torch.Tensor = output.last_hidden_state  # (batch, length, width)
        return states

    def choice_logits(self, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Return the logits of some ids alone, without the softmax over the vocabulary.

        Args:
            hidden: Shape (choices, width).
            ids: Shape (choices, k).

        Returns:
            Shape (choices, k), float32.
        """
        return choice_logits(self.module, hidden, ids)

    def choice_log_probs(
        self, hidden: torch.Tensor, choices: Sequence[Sequence[int]]
    ) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Yield log probabilities among the ids of each row, in groups of about as many ids.

        One group for all would be as wide as its widest row: most rows have two ids, those of
        labels as many as there are labels.

        Args:
            hidden: Shape (choices, width).
            choices: The ids of each row.

        Yields:
            Which rows, and theirs, float32, shape (rows, k); minus infinity behind a row's ids.

        Raises:
            ModelError: If they are no numbers.
        """
        groups: dict[int, list[int]] = {}
        for row, ids in enumerate(choices):
            size = next((size for size in _CHOICES if len(ids) <= size), len(ids))
            groups.setdefault(size, []).append(row)
        for rows in groups.values():
            width = max(len(choices[row]) for row in rows)
            padded = torch.tensor([[*choices[i], *[0] * (width - len(choices[i]))] for i in rows])
            sizes = torch.tensor([len(choices[row]) for row in rows]).unsqueeze(1)
            of_rows = hidden if len(rows) == len(choices) else hidden[torch.tensor(rows)]
            logits = self.choice_logits(of_rows, padded.to(hidden.device))  # (rows, k)
            is_padding = (torch.arange(width) >= sizes).to(logits.device)
            log_probs = logits.masked_fill(is_padding, float("-inf")).log_softmax(-1)
            self.check_numbers(log_probs, hidden.dtype)
            yield rows, log_probs

    def check_numbers(self, log_probs: torch.Tensor, dtype: torch.dtype) -> None:
        """Raise if log probabilities are NaN: compared, they would pass for "no entity" unseen.

        Raises:
            ModelError: With what may be the reason; `dtype` is that of the model's arithmetic.
        """
        if bool(log_probs.isnan().any()):
            raise ModelError(
                f"the model {self.name!r} computes NaN in {str(dtype).removeprefix('torch.')}: its "
                "weights are damaged, or it overflows (some do in float16: use bfloat16 or float32)"
            )

    def vocabulary_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits of the whole vocabulary, as the model's own forward pass gives them.

        Args:
            hidden: Shape (choices, width).

        Returns:
            Shape (choices, vocab), float32.
        """
        head, hidden, cap = head_of(self.module, hidden)
        logits = head(hidden)  # (choices, vocab)
        return (torch.tanh(logits / cap) * cap if cap else logits).float()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Save weights, tokenizer and `nomina.json`; an adapter is saved without its base."""
        self.module.save_pretrained(folder)
        if not hasattr(self.module, "peft_config"):
            self.tokenizer.save_pretrained(folder)
        if self.heads is not None:
            self.heads.save(folder)
        write_config(folder, self.config)
        give_usual_rights(*Path(folder).glob("*.safetensors"))


def write_config(folder: str | os.PathLike[str], config: ModelConfig) -> None:
    """Write `nomina.json`, whole or not at all."""
    path = Path(folder) / CONFIG_NAME
    text = json.dumps(dataclasses.asdict(config), indent=2) + "\n"
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def choice_logits(module: Any, hidden: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """See `LanguageModel.choice_logits`."""
    head, hidden, cap = head_of(module, hidden)
    rows = head.weight[ids].to(hidden.dtype)  # (choices, k, width)
    logits = torch.einsum("nd,nkd->nk", hidden, rows).float()  # (choices, k)
    if getattr(head, "bias", None) is not None:
        logits = logits + head.bias[ids].float()
    return torch.tanh(logits / cap) * cap if cap else logits


# --------------------------------------------------------------------------------------------------
# Loading


def load_model(
    name: str | os.PathLike[str] | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> LanguageModel:
    """Load a model by name.

    Args:
        name: A folder or hub id of a full model or an adapter. Defaults to the environment's
            `NOMINA_MODEL`, else to the model that comes with nomina.
        dtype: Arithmetic. Defaults to bfloat16 where the machine has it in hardware, else float32.
        device: Defaults to a GPU if there is one.

    Raises:
        ModelError: If the model cannot be found or read.
    """
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = dtype or default_dtype(device)
    name = os.fspath(name) if name is not None else default_model()
    use_network()
    folder = model_folder(name)
    try:
        with quiet_libraries():
            return _load_folder(folder, name, dtype, device)
    except ModelError:
        raise
    except Exception as error:
        # Damaged files raise anything from the libraries below; the user needs one sentence.
        raise ModelError(
            f"the model {name!r} in {folder} cannot be read: {type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}. Its files may be incomplete: "
            "fetch it again."
        ) from error


def default_model() -> str:
    """Return what is loaded where no model is named: `NOMINA_MODEL`, or nomina's own."""
    return os.environ.get("NOMINA_MODEL") or DEFAULT_ADAPTER


def use_network() -> bool:
    """Return whether the network may be used, and hold the libraries below to it.

    It may not if `NOMINA_OFFLINE`, `HF_HUB_OFFLINE` or `TRANSFORMERS_OFFLINE` is set to anything
    but 0, no or false.
    """
    offline = any(
        os.environ.get(name, "").lower() not in ("", "0", "no", "false", "off")
        for name in _OFFLINE_NAMES
    )
    if offline:
        # They read the environment when they are imported, which may be long ago.
        from huggingface_hub import constants

        constants.HF_HUB_OFFLINE = True
    return not offline


def default_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where it is native, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if device.type == "cpu" and has_fast_bfloat16() else torch.float32


def model_folder(name: str) -> Path:
    """Return the folder of a model: shipped, local, or of the hub's cache.

    Raises:
        ModelError: If there is none, or it cannot be fetched.
    """
    shipped = _ADAPTERS / name
    if (shipped / CONFIG_NAME).is_file():
        return shipped
    if name == BASE_NAME:
        return prepare_base()
    if Path(name).exists():
        return Path(name)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise ModelError(
            f"there is no model {name!r}: not one of nomina's own ({', '.join(shipped_models())}), "
            "no folder of that name, and no hub id (which looks like owner/name)"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    online = use_network()
    patterns = ["*.json", "*.safetensors", "*.model", "*.txt"]
    try:
        path = snapshot_download(name, allow_patterns=patterns, local_files_only=not online)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        if not online:
            raise ModelError(
                f"the model {name!r} is not in the hub's cache of this machine, and the network "
                f"may not be used ({', '.join(filter(os.environ.get, _OFFLINE_NAMES))} is set). On "
                f"a machine with a network run: nomina models fetch {name} --to FOLDER, copy "
                "FOLDER here and give its path."
            ) from error
        raise ModelError(
            f"the model {name!r} cannot be fetched from the hub: {type(error).__name__}. Check the "
            "name and the network, or give the path of a local folder."
        ) from error
    return Path(path)


def shipped_models() -> list[str]:
    """Return the names of the models that come with the package."""
    return sorted(path.parent.name for path in _ADAPTERS.glob(f"*/{CONFIG_NAME}"))


def _load_folder(
    folder: Path, name: str, dtype: torch.dtype, device: torch.device
) -> LanguageModel:
    config = ModelConfig.read(folder)
    if (folder / "adapter_config.json").is_file():
        module, tokenizer_folder = _load_adapter(folder, config, dtype)
    elif (folder / "config.json").is_file():
        module, tokenizer_folder = _load_full(folder, dtype), folder
    else:
        raise ModelError(
            f"{folder} is not a model: it has neither config.json (a full model) nor "
            "adapter_config.json (an adapter)"
        )
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, trust_remote_code=False)
    if config is None:
        config = guess_config(module, name)
    heads = load_heads(folder, module)
    return LanguageModel(module.to(device), tokenizer, config, name, folder, heads)


def load_heads(folder: Path, module: Any) -> Heads | None:
    """Return the heads of a model that has some in its folder."""
    if module.config.is_encoder_decoder:
        return None
    return Heads.load(folder, getattr(text_config(module.config), "hidden_size", 0))


def _load_full(folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    return kind.from_pretrained(
        folder, config=config, dtype=dtype, trust_remote_code=False, use_safetensors=True
    )


def _load_adapter(
    folder: Path, config: ModelConfig | None, dtype: torch.dtype
) -> tuple[PreTrainedModel, Path]:
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    base_folder = adapter_base(folder, config)
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(f"{folder} has no adapter_model.safetensors")
    base = _load_full(base_folder, dtype)
    # Merged into the weights, the adapter costs nothing at run time.
    if _is_plain_lora(settings, folder):
        _merge_lora(base, folder, settings["lora_alpha"] / settings["r"])
        return base, base_folder
    from peft import PeftModel

    tuned = PeftModel.from_pretrained(base.float(), folder, use_safetensors=True)
    return tuned.merge_and_unload().to(dtype), base_folder


def adapter_base(folder: Path, config: ModelConfig | None) -> Path:
    """Return the folder of the base model of an adapter; first looked for inside the adapter's.

    Raises:
        ModelError: If the adapter does not name it, or it cannot be found.
    """
    settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    base_name = config.base if config and config.base else ""
    base_name = base_name or settings.get("base_model_name_or_path") or ""
    if not base_name:
        raise ModelError(f"the adapter {folder} does not say which base model it belongs to")
    inner = folder / base_name
    return inner if (inner / "config.json").is_file() else model_folder(base_name)


def _is_plain_lora(settings: dict[str, Any], folder: Path) -> bool:
    from safetensors import safe_open

    special = (
        *("use_dora", "use_rslora", "fan_in_fan_out", "modules_to_save", "rank_pattern"),
        *("alpha_pattern", "lora_bias", "trainable_token_indices", "target_parameters"),
        "layer_replication",
    )
    is_special = any(settings.get(key) for key in special) or settings.get("bias") != "none"
    start = settings.get("init_lora_weights", True)  # others change the base, such as "pissa"
    if settings.get("peft_type") != "LORA" or is_special or start not in (True, False, "gaussian"):
        return False
    with safe_open(folder / "adapter_model.safetensors", "pt") as file:  # embeddings, too?
        return all(key.endswith((".lora_A.weight", ".lora_B.weight")) for key in file.keys())


def _merge_lora(module: PreTrainedModel, folder: Path, scale: float) -> None:
    """Add `scale * B @ A` to each weight (Hu et al. 2021), summed in float32.

    The same as PEFT's merge, without its start-up cost; a test holds the two together.
    """
    from safetensors.torch import load_file

    tensors = load_file(folder / "adapter_model.safetensors")
    prefix, first, second = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
    for key, down in tensors.items():
        if not key.endswith(first):
            continue
        name = key.removeprefix(prefix).removesuffix(first)
        up = tensors[prefix + name + second]
        weight = module.get_submodule(name).weight
        with torch.no_grad():
            delta = scale * (up.float() @ down.float())
            weight.copy_((weight.float() + delta).to(weight.dtype))


def guess_config(module: Any, name: str) -> ModelConfig:
    """Return how a model without `nomina.json` is talked to: published GNER ones by their name."""
    path = Path(name)
    if path.parent.name == "snapshots":  # of the hub's cache, in a folder with the model's name
        path = path.parent.parent
    if not re.search("(?<![a-z])gner(?![a-z])", path.name.lower()):
        return ModelConfig()
    return ModelConfig("gner", "plain" if module.config.is_encoder_decoder else "inst")

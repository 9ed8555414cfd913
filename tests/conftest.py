"""Tiny real tokenizers and models, built in code: nothing from a hub, nothing mocked."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # tiny models: threads would only wait for each other
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile(
    "nomina",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("nomina")

TEXT = (
    "did george clooney make a musical in the 1980s ? the actor and the director met in Paris . "
    "Types : actor ; year ; genre ; actor name Text : Marked : [ ] ( ) O B- I- word Sentence "
)


@pytest.fixture(scope="session")
def byte_tokenizer():
    """Byte-level BPE, as in LLaMA 3 and GPT-2: spells everything."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", "<eos>", "<bos>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT] * 3, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
    )


@pytest.fixture(scope="session")
def unigram_tokenizer():
    """Unigram with a space put before every text, as in T5: lacks most characters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = sorted({f"▁{word}" for word in TEXT.split()} | set(TEXT.replace(" ", "▁")))
    vocabulary = [("<pad>", 0.0), ("<eos>", 0.0), ("<unk>", -9.0)]
    vocabulary += [(word, -float(5 - min(len(word), 4))) for word in words]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    )


def build_module(family: str, vocab_size: int = 400, seed: int = 0, scale: float = 0.5):
    """A two-layer model of a real class with weights so large that its choices are chaotic."""
    import torch
    import transformers as hf

    torch.manual_seed(seed)
    if family == "gemma3":
        config = hf.Gemma3TextConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            sliding_window=9,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
        )
        module = hf.Gemma3ForCausalLM(config)
    elif family == "llama":
        config = hf.LlamaConfig(
            vocab_size=vocab_size,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
        )
        module = hf.LlamaForCausalLM(config)
    else:
        config = hf.T5Config(
            vocab_size=vocab_size,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_heads=4,
            decoder_start_token_id=0,
            pad_token_id=0,
            eos_token_id=1,
        )
        module = hf.T5ForConditionalGeneration(config)
    for parameter in module.parameters():
        parameter.data.normal_(0, scale)
    return module.eval()


@pytest.fixture(scope="session")
def build_model(byte_tokenizer, unigram_tokenizer):
    """Build a tiny `LanguageModel` of a family."""
    from nomina.models import LanguageModel, ModelConfig

    def build(family: str, form: str = "inline", seed: int = 0, **config):
        tokenizer = unigram_tokenizer if family == "t5" else byte_tokenizer
        module = build_module(family, max(400, len(tokenizer)), seed)
        return LanguageModel(
            module, tokenizer, ModelConfig(format=form, **config), f"tiny-{family}"
        )

    return build


def draw_heads(seed, width=32, rank=4, scale=1.0):
    """Heads of a tiny model that guess at random."""
    import torch

    from nomina.heads import Heads

    generator = torch.Generator().manual_seed(seed)
    shapes = [(3, 3, width, rank), (3, rank), (2, rank), (2,), (rank, width)]
    return Heads(*(scale * torch.randn(shape, generator=generator) for shape in shapes))


@pytest.fixture(scope="session")
def tagger(build_model):
    """A tagger that has learned nothing but tags."""
    from nomina.extractor import Tagger

    return Tagger(build_model("gemma3", max_words=20))


@pytest.fixture(scope="session")
def tiny_folder(build_model, tmp_path_factory):
    """A folder with a whole tiny model, as `nomina.load` and the command line take it."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_model("gemma3", max_words=20).save(folder)
    return folder

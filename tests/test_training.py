"""Training learns, goes on where it was killed, keeps the best model, and says what is wrong."""

from __future__ import annotations

import dataclasses
import gzip
import json
import math
import os
import signal
import socket
import subprocess
import sys

import pytest
import torch
from conftest import build_module, draw_heads
from queries import queries
from safetensors import SafetensorError
from safetensors.torch import load_file

from nomina import training
from nomina.calibration import Calibration
from nomina.entities import Example, LabelSet
from nomina.errors import DataError, NominaError, RecipeError
from nomina.extractor import Tagger
from nomina.head_fitting import fit_heads
from nomina.heads import Heads
from nomina.mixture import Question
from nomina.models import LanguageModel, ModelConfig, load_model
from nomina.packing import pack_model
from nomina.trainable import Trainable, load_trainable
from nomina.training import Recipe, _Found, collate, encode, train

ROWS = [
    Example.from_tags(["in", "Oslo", "now"], ["O", "B-city", "O"]),
    Example.from_tags(["Anna", "Berg", "spoke"], ["B-person", "I-person", "O"]),
    Example.from_tags(["nothing"], ["O"]),
]
WEIGHTS = "adapter_model.safetensors"

# Trains in a process of its own; is killed after a step, or writes its losses.
SCRIPT = """
import json, os, signal, sys
from nomina.training import Recipe, end_process, train
losses, (path, kill_at, out) = [], sys.argv[1:]
def report(now):
    losses.append(now.loss)
    if now.step == int(kill_at):
        os.kill(os.getpid(), signal.SIGKILL)
train(Recipe.read(path), report)
if losses:
    with open(out, "w") as file:
        file.write(json.dumps(losses))
end_process()  # as the command does
"""


@pytest.fixture
def folder(tmp_path, byte_tokenizer, unigram_tokenizer):
    for family, tokenizer in (("llama", byte_tokenizer), ("t5", unigram_tokenizer)):
        module = build_module(family, max(400, len(tokenizer)), scale=0.3)
        LanguageModel(module, tokenizer, ModelConfig()).save(tmp_path / family)
    lines = [json.dumps({"tokens": row.words, "labels": row.tags}) for row in ROWS * 70]
    (tmp_path / "mine.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def values(folder, **changes):
    return {
        "data": f"{folder}/mine.jsonl",
        "output": f"{folder}/out",
        "base": f"{folder}/llama",
        "rank": 4,
        "learning_rate": 0.02,
        "warmup_steps": 1,
        "steps": 12,
        "batch_tokens": 250,
        "dev_sentences": 6,
        "evaluate_every": 6,
        "save_every": 4,
        "patience": 0,
        **changes,
    }


def write_recipe(path, made):
    lines = [f"{key} = {json.dumps(value)}" for key, value in made.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_training_learns_and_its_adapter_loads(folder):
    seen, notes = [], []
    made = Recipe.of(values(folder, steps=30))
    out = train(made, seen.append, notes.append)
    assert [now.step for now in seen] == list(range(1, 31))
    assert sum(now.loss for now in seen[-5:]) < 0.5 * sum(now.loss for now in seen[:5])
    assert seen[-1].best_f1 > 0.7, [now.dev_f1 for now in seen]
    assert seen[-1].seconds_left == 0
    assert seen[5].tokens > 500
    assert any("held out" in note for note in notes)
    model = load_model(out, torch.float32)
    assert model.config.format == "inline"
    # What was kept is what was measured: the loaded, merged model finds the same.
    found = [e.text for e in Tagger(model)("in Oslo now", ["city", "person"])]
    assert found == ["Oslo"]
    assert files(folder) == {"llama", "t5", "mine.jsonl", "out"}
    card = (out / "README.md").read_text()
    assert "strict F1 on dev" in card
    assert "More Information Needed" not in card  # PEFT's placeholder
    assert files(out) == {WEIGHTS, "adapter_config.json", "nomina.json", "README.md"}


def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(folder):
    want = train(Recipe.of(values(folder, output=f"{folder}/whole")))
    path = write_recipe(folder / "recipe.toml", values(folder))
    code = [sys.executable, "-c", SCRIPT, path, "7", ""]
    killed = subprocess.run(code, capture_output=True, text=True, timeout=300, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert files(folder / "out.run") == {"step-000006", "best-000006"}
    steps = []
    have = train(Recipe.read(path), lambda now: steps.append(now.step))
    assert steps == [7, 8, 9, 10, 11, 12]
    assert (want / WEIGHTS).read_bytes() == (have / WEIGHTS).read_bytes()
    assert not (folder / "out.run").exists()


def test_resuming_replays_dropout_too(folder):
    """T5 drops a tenth of its activations: other random numbers would give other weights."""
    base = {"base": f"{folder}/t5", "steps": 6, "save_every": 2, "dev_share": 0.0}
    want = train(Recipe.of(values(folder, output=f"{folder}/whole", **base)))

    def stop(now):
        if now.step == 3:
            raise KeyboardInterrupt

    made = Recipe.of(values(folder, **base))
    with pytest.raises(KeyboardInterrupt):
        train(made, stop)
    assert files(folder / "out.run") == {"step-000002"}
    have = train(made)
    assert (want / WEIGHTS).read_bytes() == (have / WEIGHTS).read_bytes()
    assert load_model(have, torch.float32).is_encoder_decoder


def start_two(code, *arguments):
    """Start code in two processes of one group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**os.environ, **shared, "RANK": rank, "LOCAL_RANK": rank},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]


def run_two(code, *arguments):
    """Run code in two processes of one group; a process that hangs is ended, and the test fails."""
    both = start_two(code, *arguments)
    try:
        for process in both:
            errors = process.communicate(timeout=300)[1]
            assert process.returncode == 0, errors
    finally:
        for process in both:
            process.kill()


def test_two_processes_are_one_with_twice_the_batch(folder):
    base = {"dtype": "float32", "steps": 4, "dev_sentences": 4, "evaluate_every": 4}
    losses = []
    one = values(folder, output=f"{folder}/one", accumulate=2, **base)
    want = train(Recipe.of(one), lambda now: losses.append(now.loss))
    path = write_recipe(folder / "recipe.toml", values(folder, accumulate=1, **base))
    run_two(SCRIPT, path, 0, folder / "two.json")
    assert json.loads((folder / "two.json").read_text()) == pytest.approx(losses, rel=1e-4)
    have = load_file(folder / "out" / WEIGHTS)
    for name, tensor in load_file(want / WEIGHTS).items():
        assert torch.allclose(tensor, have[name], atol=2e-4), name


def test_two_processes_average_gradients_in_bfloat16():
    run_two("""
import os
import torch
from nomina.training import average_in_float32
torch.distributed.init_process_group("gloo")
layer = torch.nn.Linear(3, 2, dtype=torch.bfloat16)
model = torch.nn.parallel.DistributedDataParallel(layer)
average_in_float32(model)
mine = torch.full((4, 3), torch.distributed.get_rank() + 1.0, dtype=torch.bfloat16)
model(mine).sum().backward()
assert layer.weight.grad.dtype == torch.bfloat16
assert layer.weight.grad.tolist() == [[6.0] * 3] * 2, layer.weight.grad
# Without clearing up: torch joins gloo's threads with the interpreter's lock in hand, and hangs if
# one of them still has a tensor to let go of, for which it needs that lock.
os._exit(0)
""")


def test_an_adapter_is_trained_further(folder):
    first = train(Recipe.of(values(folder, output=f"{folder}/first", steps=3)))
    of_first = json.loads((first / "nomina.json").read_text())
    (first / "nomina.json").write_text(json.dumps({**of_first, "threshold": 0.5}))
    Calibration(3.0).save(first)
    draw_heads(0).save(first)
    notes = []
    made = values(folder, base=str(first), rank=9, steps=1, learning_rate=1e-6)
    second = train(Recipe.of(made), note=notes.append)
    assert any("its own rank, 4" in note for note in notes)
    config = json.loads((second / "nomina.json").read_text())
    assert config["base"] == f"{folder}/llama"
    assert config["threshold"] == 0.5  # with the scale of its scores
    assert Calibration.load(second).temperature == 3
    assert Heads.load(second, 32) is not None
    old, new = load_file(first / WEIGHTS), load_file(second / WEIGHTS)
    assert old.keys() == new.keys()
    assert all(torch.allclose(old[key], new[key], atol=1e-4) for key in old)
    assert any(bool(old[key].any()) for key in old if "lora_B" in key)
    packed = pack_model(str(first), folder / "packed")
    made |= {"base": str(packed), "format": "gner"}
    with pytest.raises(RecipeError, match=r"needs its base model .*packed/base, which would"):
        train(Recipe.of({**made, "output": str(packed)}))
    third = train(Recipe.of({**made, "output": f"{folder}/third"}))
    config = json.loads((third / "nomina.json").read_text())
    assert (config["format"], config["threshold"]) == ("gner", 0)  # scored in another way
    assert config["base"] == f"{packed}/base"
    assert Calibration.load(third) == Calibration()


def test_a_result_never_takes_the_place_of_its_base(folder):
    before = files(folder / "llama")
    for output in (f"{folder}/llama", f"{folder}/t5/../llama"):
        with pytest.raises(RecipeError, match=r"needs its base model .*llama, which would"):
            train(Recipe.of(values(folder, output=output)))
    assert files(folder / "llama") == before
    assert not (folder / "llama.run").exists()


@pytest.fixture
def seeing(folder, byte_tokenizer):
    """A model with a tower for pictures, which text never reaches."""
    import transformers as hf

    ids = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
    text = {**build_module("gemma3", 400).config.to_dict(), **ids}
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    tower |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = hf.Gemma3Config(text_config=text, vision_config=tower, mm_tokens_per_image=4, **ids)
    hf.Gemma3ForConditionalGeneration(config).save_pretrained(folder / "seeing")
    byte_tokenizer.save_pretrained(folder / "seeing")
    return f"{folder}/seeing"


def test_what_sees_beside_what_reads_is_left_alone(folder, seeing):
    for method in ("lora", "full"):
        moving = load_trainable(Recipe.of(values(folder, base=seeing, method=method))).weights
        assert moving
        assert all("language_model" in name or "lm_head" in name for name in moving)


def test_draft_heads_are_fitted_behind_the_last_step(folder, monkeypatch):
    def fit(*arguments, **options):
        fitted = fit_heads(*arguments, **options)  # as if no label was held out
        return dataclasses.replace(fitted, right={**fitted.right, "label": float("nan")})

    monkeypatch.setattr(training, "fit_heads", fit)
    (folder / "usual").touch()
    usual = (folder / "usual").stat().st_mode & 0o777
    told, notes = [], []
    made = values(folder, heads=40, steps=1, dev_sentences=2)
    out = train(Recipe.of(made), note=notes.append, show=lambda *now: told.append(now))
    assert load_model(out, torch.float32).heads is not None
    assert {path.stat().st_mode & 0o777 for path in out.iterdir()} == {usual}  # others serve it
    card = (out / "README.md").read_text()
    assert "draft heads right at" in card
    assert "nan" not in card
    assert {text for text, _, _ in told} >= {"reading sentences for draft heads"}
    plain = train(Recipe.of({**made, "heads": 0, "output": f"{folder}/plain"}))
    assert (plain / WEIGHTS).read_bytes() == (out / WEIGHTS).read_bytes()
    assert load_model(plain, torch.float32).heads is None
    with pytest.raises(RecipeError, match="heads must be 0 or 20 or more"):
        Recipe.of({**made, "heads": 7})
    with pytest.raises(RecipeError, match=r"heads are for .* writes 'gner'"):
        train(Recipe.of({**made, "format": "gner", "output": f"{folder}/gner"}))
    assert not (folder / "gner.run").exists()
    # Too few sentences that can be read are no reason to lose the model.
    row = {"tokens": ["word"] * 720, "labels": ["O"] * 719 + ["B-city"]}
    (folder / "long.jsonl").write_text(json.dumps(row) + "\n")
    made |= {"data": f"{folder}/long.jsonl", "output": f"{folder}/long", "max_length": 4000}
    made |= {"mixture": {"max_words": 800, "p_merge": 0.0}, "heads": 20, "accumulate": 1}
    out = train(Recipe.of(made), note=notes.append)
    assert any("had 0 of 20" in note for note in notes)
    assert load_model(out, torch.float32).heads is None


def test_full_training_makes_a_model_of_its_own(folder):
    made = values(folder, method="full", learning_rate=0.003, steps=24, dev_share=0.0)
    losses = []
    out = train(Recipe.of(made), lambda now: losses.append(now.loss))
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8]), losses
    model = load_model(out)
    assert (out / "model.safetensors").is_file()
    assert json.loads((out / "nomina.json").read_text())["base"] == ""
    before = load_model(folder / "llama").module.state_dict()
    assert any(not torch.equal(x, before[k]) for k, x in model.module.state_dict().items())


def test_the_loss_on_tokens_trains(folder):
    losses = []
    made = values(folder, objective="tokens", steps=24, dev_share=0.0)
    train(Recipe.of(made), lambda now: losses.append(now.loss))
    assert sum(losses[-8:]) < sum(losses[:8]), losses


def test_scores_are_calibrated_on_dev_if_there_are_enough():
    few = _Found(3, (0.9, 0.8), (True, False))
    assert few.f1 == pytest.approx(2 / 5)
    assert few.calibration() is None
    many = sum([few] * 20, _Found())
    assert many.f1 == few.f1
    assert many.calibration().temperature > 1  # half right, scored 0.85
    assert _Found(50, (0.9,) * 50, (True,) * 50).calibration() is None
    assert _Found().f1 == 0


def test_patience_ends_a_run_and_the_best_is_kept(folder):
    seen = []
    made = values(folder, steps=40, evaluate_every=1, patience=2, learning_rate=1e-9)
    out = train(Recipe.of(made), seen.append)
    assert seen[-1].step == 3  # F1 never moves: the first is the best, two more are no better
    assert "at step 1 " in (out / "README.md").read_text()


def test_another_recipe_does_not_go_on_with_a_run(folder):
    def stop(now):
        if now.step == 5:
            raise KeyboardInterrupt

    def meet(now):
        with pytest.raises(RecipeError, match=r"out\.run is in use: another process"):
            train(Recipe.of(values(folder, dev_share=0.0)))
        stop(now)

    with pytest.raises(KeyboardInterrupt):
        train(Recipe.of(values(folder, dev_share=0.0)), meet)
    with pytest.raises(RecipeError, match=r"learning_rate: 0\.02 -> 0\.01"):
        train(Recipe.of(values(folder, dev_share=0.0, learning_rate=0.01)))
    (folder / "mine.jsonl").write_text('{"tokens": ["Oslo"], "labels": ["B-city"]}\n')
    with pytest.raises(RecipeError, match="sentences: "):
        train(Recipe.of(values(folder, dev_share=0.0)))


def test_a_folder_that_is_no_model_is_not_replaced(folder):
    (folder / "out").mkdir()
    (folder / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(RecipeError, match="is no model of nomina"):
        train(Recipe.of(values(folder)))


def test_folders_of_the_user_beside_the_output_stay(folder):
    for name in ("out.old", "out.partial"):
        (folder / name).mkdir()
        (folder / name / "thesis.txt").write_text("years of work")
    (folder / "link").symlink_to(folder / "out")
    made = values(folder, steps=1, dev_share=0.0, output=f"{folder}/link")
    for _ in range(2):  # the second takes the place of the first
        assert train(Recipe.of(made)) == folder / "link"
        assert (folder / "out" / WEIGHTS).is_file()
    assert files(folder) == {"llama", "t5", "mine.jsonl", "link", "out", "out.old", "out.partial"}
    assert (folder / "link").is_symlink()
    assert (folder / "out.old" / "thesis.txt").is_file()
    assert (folder / "out.partial" / "thesis.txt").is_file()


def test_a_best_model_that_a_full_disk_refused_is_not_the_best(folder, monkeypatch):
    found, saved, save = iter([0.5, 0.9, 0.1, 0.1]), [], Trainable.save

    def full_the_second_time(self, *arguments):
        saved.append(1)
        if len(saved) == 2:
            raise OSError(28, "No space left on device")
        return save(self, *arguments)

    monkeypatch.setattr(Trainable, "save", full_the_second_time)
    monkeypatch.setattr(training._Run, "evaluate", lambda self: (next(found), None))
    notes = []
    out = train(
        Recipe.of(values(folder, steps=8, evaluate_every=2, save_every=2)), None, notes.append
    )
    assert any("No space left" in note for note in notes)
    assert "50.0 at step 2 " in (out / "README.md").read_text()


def test_what_diverges_is_an_error_and_no_model(folder, byte_tokenizer):
    module = build_module("llama", max(400, len(byte_tokenizer)), scale=0.3)
    with torch.no_grad():
        module.get_input_embeddings().weight[byte_tokenizer("~").input_ids] = math.inf
    LanguageModel(module, byte_tokenizer, ModelConfig()).save(folder / "llama")
    odd = {"tokens": ["~"], "labels": ["O"]}
    with (folder / "mine.jsonl").open("a") as file:
        file.write(f"{json.dumps(odd)}\n")
    made = Recipe.of(values(folder, steps=60, dev_share=0.0, save_every=1))
    with pytest.raises(RecipeError, match=r"step \d+ the training diverged: .* learning_rate"):
        train(made)
    assert not (folder / "out").exists()
    (state,) = (folder / "out.run").glob("step-*/state.safetensors")
    assert all(tensor.isfinite().all() for tensor in load_file(state).values())


def test_a_full_disk_at_the_end_is_said(folder, monkeypatch):
    def full(self, *arguments):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    made = Recipe.of(values(folder, steps=1, dev_share=0.0))
    monkeypatch.setattr(Trainable, "save", full)
    with pytest.raises(RecipeError, match="To begin anew, free some"):
        train(made)
    monkeypatch.undo()

    def no_right(partial, final):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(training, "replace_folder", no_right)
    with pytest.raises(RecipeError, match=r"trained model is whole in .*out\.run/result\.partial"):
        train(made)
    assert (folder / "out.run" / "result.partial" / WEIGHTS).is_file()
    monkeypatch.undo()
    assert (train(made) / WEIGHTS).is_file()
    assert not (folder / "out.run").exists()


def test_a_run_at_the_end_of_its_patience_keeps_what_it_learned(folder, monkeypatch):
    def full(self, *arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training._Run, "evaluate", lambda self: (0.3, None))
    made = Recipe.of(values(folder, evaluate_every=1, patience=1, dtype="float32"))
    with monkeypatch.context() as disk:
        disk.setattr(Trainable, "save", full)
        with pytest.raises(RecipeError, match="To go on from step 2, free some"):
            train(made)
    learned = load_file(folder / "out.run" / "step-000002" / "state.safetensors")
    steps = []
    have = load_file(train(made, steps.append) / WEIGHTS)
    assert not steps
    for name, tensor in have.items():
        name = name.replace(".weight", ".default.weight")
        assert torch.equal(tensor, learned[f"master/{name}"]), name
    assert any(tensor.any() for name, tensor in have.items() if "lora_B" in name)


def test_where_nothing_can_be_written_is_said_first(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "taken.run").write_text("x")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for output, message in [
        ("file/out", r"out\.run cannot be made: Not a directory"),
        ("taken", r"taken\.run cannot be made: File exists"),
        ("loop", r"loop"),
    ]:
        with pytest.raises(RecipeError, match=message):
            train(Recipe.of({"data": "nowhere.jsonl", "output": f"{tmp_path}/{output}"}))


def test_what_was_left_out_is_counted_across_a_stop(folder):
    words = ["word"] * 60
    with open(folder / "mine.jsonl", "a") as file:
        for _ in range(60):
            file.write(json.dumps({"tokens": words, "labels": ["O"] * 60}) + "\n")
    made = values(folder, steps=24, corpora=[f"{folder}/mine.jsonl"], max_length=90)
    made |= {"evaluate_every": 0, "dev": [], "accumulate": 1}
    del made["data"]
    whole = []
    train(Recipe.of({**made, "output": f"{folder}/whole"}), whole.append)

    def stop(now):
        if now.step == 18:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Recipe.of(made), stop)
    again = []
    train(Recipe.of(made), again.append)
    assert again[0].step < 24
    assert again[-1].num_too_long == whole[-1].num_too_long > 0


def test_records_with_label_sets_are_asked_for_their_own(folder):
    rows = [
        {"text": "in Oslo", "entities": [{"start": 3, "end": 7, "label": "city"}],
         "label_set": ["city", *(f"label {n} {k}" for k in range(5))]}
        for n in range(40)
    ]  # fmt: skip
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert train(Recipe.of(values(folder, steps=1, dev_share=0.0, max_length=200)))


def test_the_card_says_what_was_measured_and_fitted(folder):
    out = train(Recipe.of(values(folder, steps=1, dev_share=0.0)))
    card = (out / "README.md").read_text()
    assert "there was no dev set" in card
    assert "Scores are not calibrated" in card


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"max_steps": 3}, "'max_steps' is set by the recipe"),
        ({"eval_on_start": True}, "'eval_on_start' is set by the recipe"),
        ({"colour": "red"}, "'colour' is not an argument"),
        ({"optim": "sgd"}, "'optim' has no effect"),
        ({"label_smoothing_factor": 0.1}, "is set by the recipe"),
        ({"report_to": "trackio"}, "trackio"),
    ],
)
def test_arguments_of_the_trainer_are_checked(folder, trainer, message):
    with pytest.raises(RecipeError, match=message):
        train(Recipe.of(values(folder, trainer=trainer)))


def test_a_sentence_longer_than_the_window_is_named_before_training(folder):
    with open(folder / "mine.jsonl", "a") as file:
        file.write(json.dumps({"tokens": ["w"] * 90, "labels": ["O"] * 90}) + "\n")
    seen = []
    with pytest.raises(DataError, match=r"mine.jsonl:211: the sentence has \d+ tokens"):
        train(Recipe.of(values(folder, max_length=100, dev_share=0.0)), seen.append)
    assert not seen


def test_a_mixture_of_corpora_trains(folder, monkeypatch):
    data = folder / "data" / "mine"
    data.mkdir(parents=True)
    for split in ("train", "dev"):
        with gzip.open(data / f"{split}.jsonl.gz", "wt") as file:
            for row in ROWS * 5:
                file.write(json.dumps({"tokens": row.words, "labels": row.tags}) + "\n")
    (data / "labels.json").write_text('{"c": "city", "p": "person"}')
    index = {"mine": {"default_model": True, "language": "en", "licence": "CC BY 4.0"}}
    (folder / "data" / "sets.json").write_text(json.dumps(index))
    monkeypatch.setenv("NOMINA_DATA", str(folder / "data"))
    own = folder / "queries.jsonl"
    with open(own, "w") as file:
        for record in queries(20):
            file.write(json.dumps(record) + "\n")
    mixture = {"p_typos": 0.0, "shares": {str(own): 0.5}}
    corpora = ["default", str(own)]
    made = values(folder, steps=2, dev=["mine:dev"], corpora=corpora, mixture=mixture)
    del made["data"]
    card = (train(Recipe.of(made)) / "README.md").read_text()
    assert "| mine | 15 | CC BY 4.0 |" in card
    assert "| queries.jsonl | 20 |" in card
    assert "6 sentences: mine:dev" in card


def test_public_names_stay_where_they_were(build_model):
    model = build_model("llama")
    item = encode(model, Question(ROWS[0], LabelSet.of(["city"])))
    assert collate([item], 0)["input_ids"].shape == (1, len(item))
    with pytest.raises(NominaError, match="no such file"):
        train(Recipe(output="x", base="y", data="nowhere.jsonl"))

"""There is a whole checkpoint at any moment, even when the disk is full."""

from __future__ import annotations

import contextlib
import resource

import pytest
import torch
from safetensors.torch import load_file

from nomina.checkpoints import Checkpoints, RunState, replace_folder
from nomina.errors import RecipeError
from nomina.optimizer import MasterAdamW


@pytest.fixture
def weights():
    torch.manual_seed(0)
    return {"w": torch.nn.Parameter(torch.randn(1000).bfloat16())}


@pytest.fixture
def optimizer(weights):
    made = MasterAdamW(weights.values(), lr=0.1)
    weights["w"].grad = torch.ones(1000, dtype=torch.bfloat16)
    made.step()
    return made


@pytest.fixture
def checkpoints(tmp_path):
    return Checkpoints(tmp_path / "run", {"seed": 1})


def names(checkpoints):
    return sorted(path.name for path in checkpoints.folder.iterdir())


def test_what_is_saved_comes_back(checkpoints, weights, optimizer):
    state = RunState(step=3, place=(5, 1, 2), best_f1=0.5, best_step=2)
    assert checkpoints.save(state, weights, optimizer) == ""
    fresh = {"w": torch.nn.Parameter(torch.zeros(1000, dtype=torch.bfloat16))}
    again = MasterAdamW(fresh.values(), lr=0.1)
    assert checkpoints.load(fresh, again) == state
    assert torch.equal(fresh["w"], weights["w"])
    for key, value in optimizer.state[weights["w"]].items():
        want = torch.tensor(3.0) if key == "step" else value
        assert torch.equal(again.state[fresh["w"]][key], want)


def test_weights_without_a_gradient_stay_as_they_are(checkpoints, weights, optimizer):
    weights |= {"idle": torch.nn.Parameter(torch.ones(3))}
    checkpoints.save(RunState(step=1), weights, optimizer)
    fresh = {name: torch.nn.Parameter(torch.zeros_like(x)) for name, x in weights.items()}
    checkpoints.load(fresh, MasterAdamW(fresh.values()))
    assert torch.equal(fresh["w"], weights["w"])
    assert not fresh["idle"].any()
    with pytest.raises(RecipeError, match=r"cannot be read: 'w'"):
        checkpoints.load({"idle": fresh["idle"]}, MasterAdamW([fresh["idle"]]))


def test_old_checkpoints_go(checkpoints, weights, optimizer):
    for step in (2, 4, 6):
        if step < 6:
            checkpoints.save_best(step, lambda folder: (folder / "x").write_text("x"))
        checkpoints.save(RunState(step=step, best_step=min(step, 4)), weights, optimizer)
    assert names(checkpoints) == ["best-000004", "step-000006"]


@contextlib.contextmanager
def full_disk():
    """No file may grow beyond 3,000 bytes: writes fail as they do on a full disk.

    Lifted before the test ends, as pytest's own output may go to a longer file.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_loses_no_checkpoint(checkpoints, weights, optimizer):
    assert checkpoints.save(RunState(step=1), weights, optimizer) == ""
    checkpoints.save_best(1, lambda folder: (folder / "x").write_text("good"))
    kept = (checkpoints.folder / "step-000001" / "state.safetensors").read_bytes()
    with full_disk():
        problem = checkpoints.save(RunState(step=2, best_step=1), weights, optimizer)
    assert "was not written" in problem
    with full_disk():
        problem = checkpoints.save_best(2, lambda folder: (folder / "x").write_text("x" * 9000))
    assert "was not written" in problem
    assert names(checkpoints) == ["best-000001", "step-000001"]
    assert (checkpoints.folder / "step-000001" / "state.safetensors").read_bytes() == kept
    assert checkpoints.read_state().step == 1


def test_half_a_checkpoint_does_not_count(checkpoints, weights, optimizer):
    checkpoints.save(RunState(step=1), weights, optimizer)
    (checkpoints.folder / "step-000002.partial").mkdir()
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.name == "step-000001"
    assert load_file(latest / "state.safetensors")["master/w"].dtype == torch.float32


def test_a_run_of_another_recipe_is_refused(checkpoints, weights, optimizer):
    checkpoints.save(RunState(step=1), weights, optimizer)
    other = Checkpoints(checkpoints.folder, {"seed": 2, "rank": 3})
    with pytest.raises(RecipeError, match="rank: None -> 3, seed: 1 -> 2"):
        other.read_state()


def test_damaged_checkpoints_are_named(checkpoints, weights, optimizer):
    checkpoints.save(RunState(step=1), weights, optimizer)
    path = checkpoints.folder / "step-000001" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(RecipeError, match="step-000001 cannot be read"):
        checkpoints.load(weights, optimizer)
    (checkpoints.folder / "step-000001" / "state.json").write_text("{")
    with pytest.raises(RecipeError, match=r"Delete .* to begin anew"):
        checkpoints.read_state()


def test_a_folder_is_replaced_whole(tmp_path):
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("x")
    replace_folder(tmp_path / "new", tmp_path / "old")
    assert [path.name for path in tmp_path.rglob("*")] == ["old", "new"]

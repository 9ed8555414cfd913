"""The base model's cache: atomic, checked, safe for two processes."""

from __future__ import annotations

import json
import threading
import types

import pytest

from nomina import base
from nomina.errors import ModelError


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache on a disk with room for the real base; what is made here has some bytes."""
    usage = types.SimpleNamespace(free=base._NEEDED_BYTES)
    monkeypatch.setattr(base.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setenv("NOMINA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def quick(monkeypatch):
    """Replace the two slow steps, reading 240 MB and converting them, and count them."""
    calls = []

    def join(folder):
        (folder / base.GGUF_NAME).write_bytes(b"gguf")
        return folder / base.GGUF_NAME

    def convert(gguf, folder, advance):
        calls.append(folder)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(b"x" * 100)

    monkeypatch.setattr(base, "_join_parts", join)
    monkeypatch.setattr(base, "_convert", convert)
    return calls


def test_it_is_made_once_and_leaves_nothing_else(cache, quick):
    folder = base.prepare_base(show_progress=False)
    assert base.prepare_base(show_progress=False) == folder
    assert len(quick) == 1
    assert sorted(path.name for path in folder.iterdir()) == [
        "complete.json",
        "config.json",
        "model.safetensors",
    ]
    assert [p.name for p in cache.iterdir() if p.is_dir()] == [folder.name]
    (cache / "new").mkdir()
    assert folder.stat().st_mode == (cache / "new").stat().st_mode  # another user's, too


@pytest.mark.parametrize("damage", ["shorter", "gone", "mark"])
def test_a_damaged_cache_is_made_again(cache, quick, damage):
    folder = base.prepare_base(show_progress=False)
    if damage == "shorter":
        (folder / "model.safetensors").write_bytes(b"x" * 50)
    elif damage == "gone":
        (folder / "config.json").unlink()
    else:
        (folder / "complete.json").write_text("{")
    assert not base.is_prepared(folder)
    base.prepare_base(show_progress=False)
    assert base.is_prepared(folder)
    assert len(quick) == 2


def test_an_interrupted_making_leaves_nothing(cache, quick, monkeypatch):
    def fail(gguf, folder, advance):
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(base, "_convert", fail)
    with pytest.raises(KeyboardInterrupt):
        base.prepare_base(show_progress=False)
    assert [p for p in cache.iterdir() if p.is_dir()] == []
    (cache / f".{base.base_folder().name}-stale").mkdir()  # as after kill -9


def test_two_at_once_make_it_once(cache, quick):
    threads = [threading.Thread(target=base.prepare_base, args=(False,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(quick) == 1


def test_a_full_disk_is_said_before_work_begins(cache, quick, monkeypatch):
    usage = types.SimpleNamespace(free=base._NEEDED_BYTES - 1)
    monkeypatch.setattr(base.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ModelError, match="free some space or set NOMINA_CACHE"):
        base.prepare_base(show_progress=False)
    assert quick == []


def test_a_disk_that_fills_up_is_said(cache, quick, monkeypatch):
    def fill(gguf, folder, advance):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(base, "_convert", fill)
    with pytest.raises(ModelError, match="No space left"):
        base.prepare_base(show_progress=False)
    assert [p for p in cache.iterdir() if p.is_dir()] == []


def test_a_damaged_package_is_named(cache, tmp_path, monkeypatch):
    import importlib

    parts = {}
    for number in range(4):
        folder = tmp_path / f"part{number}"
        (folder / "data").mkdir(parents=True)
        (folder / "data" / f"{base.GGUF_NAME}.part{number:02d}").write_bytes(b"no")
        name = f"{base._PACKAGE}_part{number + 1}"
        parts[name] = types.SimpleNamespace(__file__=str(folder / "__init__.py"))
    monkeypatch.setattr(importlib, "import_module", parts.__getitem__)
    with pytest.raises(ModelError, match="sha256"):
        base.prepare_base(show_progress=False)


def test_the_mark_names_every_file(cache, quick):
    folder = base.prepare_base(show_progress=False)
    marks = json.loads((folder / "complete.json").read_text())
    assert marks == {"config.json": 2, "model.safetensors": 100}

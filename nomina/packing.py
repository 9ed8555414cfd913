"""A model with all it needs in one folder, for a machine that has no network.

An adapter is packed with its base beside it, in the folder `base`, so that copying the one folder
is enough wherever it lands. Files are copied as they are: the packed model gives the same results.

Knows where models are; nothing of what they do.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from transformers import AutoConfig

from nomina.corpora.files import write_whole_folder
from nomina.errors import DataError, ModelError
from nomina.models import (
    ModelConfig,
    adapter_base,
    guess_config,
    model_folder,
    use_network,
    write_config,
)

BASE_FOLDER = "base"
# Pickles are never read, and what a trainer leaves to go on from is of no use to a user.
_LEFT_OUT = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5", ".msgpack", ".onnx", ".lock")


def pack_model(
    name: str, target: Path | str, notify: Callable[[str], object] = lambda what: None
) -> Path:
    """Copy a model and, if it is an adapter, its base to one folder; return the folder.

    Args:
        name: A model that comes with nomina, a folder, or a hub id (which needs the network).
        target: A new or empty folder; appears when it is complete.
        notify: Called with what is being copied.

    Raises:
        ModelError: If the model or its base cannot be found, or the folder not written.
    """
    use_network()
    folder = model_folder(name)
    config = ModelConfig.read(folder)
    is_adapter = (folder / "adapter_config.json").is_file()
    if not is_adapter and not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} is not a model: it has neither config.json nor adapter_config.json"
        )
    base = adapter_base(folder, config) if is_adapter else None
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with write_whole_folder(target.absolute()) as packed:
            notify(f"copying {folder}")
            _copy(folder, packed)
            if base is not None:
                notify(f"copying its base {base}")
                _copy(base, packed / BASE_FOLDER)
            if config is None:
                # How it is talked to would be guessed from its name, which the copy has not.
                config = guess_config(
                    SimpleNamespace(config=AutoConfig.from_pretrained(base or folder)), name
                )
            if base is not None:
                config = dataclasses.replace(config, base=BASE_FOLDER)
            write_config(packed, config)
    except DataError as error:
        raise ModelError(str(error)) from error
    except OSError as error:
        raise ModelError(f"{target} cannot be written: {error.strerror or error}") from error
    return target


def _copy(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True)
    names = [p for p in sorted(source.iterdir()) if p.is_file() and p.suffix not in _LEFT_OUT]
    for path in names:
        shutil.copyfile(path, target / path.name)  # links of the hub's cache become files
    index = target / "model.safetensors.index.json"
    if index.is_file():
        parts = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if missing := sorted(part for part in parts if not (target / part).is_file()):
            raise ModelError(f"{source} lacks {missing[0]}: fetch it again")

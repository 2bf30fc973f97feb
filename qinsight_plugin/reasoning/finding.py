"""Where a checkpoint lies, and which files they are."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal, TypeAlias

from qinsight_plugin.errors import WeightsError, WeightsNotFoundError
from qinsight_plugin.reasoning.libraries import need, reason_of

DEFAULT_TARGET: Final = "ByteDance/Q-Insight"

Purpose: TypeAlias = Literal["score_degradation", "comparison"]
"""Q-Insight's two models, by the names of their folders."""

_BLOCKS: Final = 256
_BLOCK: Final = 1 << 14


def find(target: str, purpose: Purpose) -> tuple[Path, str]:
    """The folder of a checkpoint, fetched from the hub if it must be, and the files' identity: the
    commit for what came from the hub, else their `fingerprint`.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        WeightsNotFoundError: there is no such folder, or model on the hub.
        WeightsError: there is no checkpoint in it.
    """
    root = Path(target).expanduser()
    if not root.exists() and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", target):
        return _fetched(target, purpose)
    if not root.is_dir():
        raise WeightsNotFoundError(
            f"no folder at {target}: give a folder that holds a checkpoint, or a hub id such as "
            f"{DEFAULT_TARGET}"
        )
    folder = _holding(root, purpose)
    return folder, fingerprint(folder)


def _fetched(target: str, purpose: Purpose) -> tuple[Path, str]:
    hub = need("huggingface_hub")
    kinds = ["*.json", "*.jinja", "*.txt", "*.safetensors"]
    command = f"hf download {target}"
    deeper: list[str] | None = ["*/*"]
    if target == DEFAULT_TARGET:
        kinds = [f"{purpose}/{kind}" for kind in kinds]
        command += f" --include '{purpose}/*'"
        deeper = None
    try:
        snapshot = Path(hub.snapshot_download(target, allow_patterns=kinds, ignore_patterns=deeper))
    except Exception as error:  # of the hub, of its HTTP library, or of the disk
        raise WeightsNotFoundError(
            f"{target} is no folder here and came neither from the hub's cache nor from the hub "
            f"({reason_of(error)}): run {command} where there is a network, or give a folder that "
            "holds it"
        ) from error
    return _holding(snapshot, purpose), snapshot.name[:16]


def _holding(root: Path, purpose: Purpose) -> Path:
    for folder in (root, root / purpose):
        if (folder / "config.json").is_file():
            return folder
    if (root / "adapter_config.json").is_file():
        raise WeightsError(f"{root} holds an adapter: name the model, and give this as its adapter")
    raise WeightsError(
        f"{root} holds no checkpoint: there is no config.json in it, nor in a folder {purpose}"
    )


def fingerprint(folder: Path) -> str:
    """16 hexadecimal digits that change when the files of a checkpoint do.

    SHA-256 over the names and sizes of all files directly in the folder that a model is loaded
    from, over the contents of the small ones, and, since 15 gigabytes take a minute to read, over
    256 blocks of 16 KiB spread evenly over each tensor file. Training changes every tensor that it
    is let at, and so some block; an edit by hand of a few values can go unseen.
    """
    hashed = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".json", ".jinja", ".txt", ".safetensors"):
            size = path.stat().st_size
            hashed.update(f"{path.name}/{size}/".encode())
            for block in _sampled(path, size):
                hashed.update(block)
    return hashed.hexdigest()[:16]


def _sampled(path: Path, size: int) -> Iterator[bytes]:
    if path.suffix != ".safetensors" or size <= _BLOCKS * _BLOCK:
        yield path.read_bytes()
        return
    with path.open("rb") as file:
        for k in range(_BLOCKS):  # the first and the last bytes are among them
            file.seek(k * (size - _BLOCK) // (_BLOCKS - 1))
            yield file.read(_BLOCK)

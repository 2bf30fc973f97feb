"""The menus of models and policies, and the scorers that they stand for.

`models/iqa/` of ComfyUI holds what users add: ONNX files of `qinsight fit`, folders of reasoning
models, TOML policies. Menus list what lies there, and a choice that is on no menu is refused, so
that a workflow from elsewhere can name no other file; ComfyUI 0.3 does not see to that itself.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

import folder_paths

from qinsight_plugin.errors import ConfigError

FOLDER = "iqa"
SHIPPED = ("student", "student:int8", "student:large", "student:large-int8")
REMOTE = "remote"
LOCAL = "reasoning"
SERVER_VARIABLE = "QINSIGHT_API_SERVER"
"""Environment variable: the address of the only server that is shown the key."""

NO_POLICY = "none: use the threshold"


def add_folder() -> None:
    """Tell ComfyUI of `models/iqa/`."""
    folder_paths.add_model_folder_path(FOLDER, str(Path(folder_paths.models_dir, FOLDER)))


def files(suffix: str) -> list[str]:
    names = folder_paths.get_filename_list(FOLDER)
    return [name for name in names if name.lower().endswith(suffix)]


def model_menu() -> list[str]:
    return [*SHIPPED, *files(".onnx"), REMOTE]


def reasoning_menu() -> list[str]:
    """A server, Q-Insight itself from the hub, and folders of the like."""
    roots = [Path(root) for root in folder_paths.get_folder_paths(FOLDER)]
    found = sorted(path.parent.name for root in roots for path in root.glob("*/config.json"))
    return [REMOTE, LOCAL, *found]


def policy_menu() -> list[str]:
    return [NO_POLICY, *files(".toml")]


def scorer_of(model: str, server: str) -> str:
    """The scorer that a choice of `model_menu` stands for.

    Raises:
        ConfigError: it is not on the menu, or the server's address is missing.
    """
    require_listed(model, model_menu())
    if model in SHIPPED:
        return model
    if model == REMOTE:
        return remote_of(server)
    return f"student:{folder_paths.get_full_path_or_raise(FOLDER, model)}"


def reasoner_of(model: str, server: str) -> str:
    """The same of `reasoning_menu`."""
    require_listed(model, reasoning_menu())
    if model == REMOTE:
        return remote_of(server)
    if model == LOCAL:
        return LOCAL
    roots = [Path(root) for root in folder_paths.get_folder_paths(FOLDER)]
    folder = next(root / model for root in roots if (root / model / "config.json").is_file())
    return f"{LOCAL}:{folder}"


def require_listed(choice: str, menu: Sequence[str]) -> None:
    """
    Raises:
        ConfigError: it is not on the menu.
    """
    if choice not in menu:
        raise ConfigError(
            f"{choice!r} is not there: choose another, or put it into models/{FOLDER} and reload "
            f"the page; there are {', '.join(menu)}"
        )


def remote_of(server: str) -> str:
    """The scorer at that address; a workflow's author has no claim to the user's key."""
    if not server.strip():
        raise ConfigError(
            "the model 'remote' needs the address of a server: fill in server, such as "
            "http://host:8000/v1"
        )
    address, _, settings = server.strip().partition("?")
    if not is_trusted(address):
        settings = f"{settings}&key=no".lstrip("&")
    return f"{REMOTE}:{address}" + (f"?{settings}" if settings else "")


def is_trusted(address: str) -> bool:
    """Whether it is on the server that QINSIGHT_API_SERVER names."""
    try:
        return origin_of(address) == origin_of(os.environ[SERVER_VARIABLE])
    except (KeyError, ValueError):
        return False


def origin_of(address: str) -> tuple[str, str | None, int | None]:
    """Scheme, host and port."""
    parts = urlsplit(address.strip())
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or usual


def policy_path(policy: str) -> str | None:
    """The file of a choice of `policy_menu`; None of its first."""
    require_listed(policy, policy_menu())
    if policy == NO_POLICY:
        return None
    path: str = folder_paths.get_full_path_or_raise(FOLDER, policy)
    return path


def changed(name: str) -> object:
    """What differs when a file of the menus has been replaced."""
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        return name
    state = Path(path).stat()
    return f"{name} {state.st_mtime_ns} {state.st_size}"

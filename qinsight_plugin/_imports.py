"""Optional packages: imported where they are used, and absent told apart from broken."""

from __future__ import annotations

import importlib
from types import ModuleType

from qinsight_plugin.errors import BrokenExtraError, MissingExtraError


def require(module: str, *, package: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional module.

    Args:
        module: its dotted name, such as "scipy.stats".
        package: the distribution to name to the user, such as "scipy".
        extra: our extra that installs it.
        purpose: what needs it; begins the error message.

    Raises:
        MissingExtraError: the module's top-level package is not installed.
        BrokenExtraError: it is installed and fails to load; chained to what it failed with.
    """
    top_level = module.partition(".")[0]
    try:
        importlib.import_module(top_level)  # by itself, so that its absence bears its name
        return importlib.import_module(module)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name == top_level:
            raise MissingExtraError(package, extra, purpose) from error
        reason = str(error).strip().partition("\n")[0]
        raise BrokenExtraError(
            f"{purpose} needs {package}, which is installed and fails to load "
            f"({type(error).__name__}: {reason}): repair or reinstall {package}",
            name=module,
        ) from error

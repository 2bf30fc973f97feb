"""Entry point: the group, the commands by name, and errors turned into exit codes.

Exit codes: 0 accepted or done, 1 rejected, 2 wrong usage, 3 error.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Any

import click

from qinsight_plugin import __version__
from qinsight_plugin.errors import ConfigError, QInsightError

EXIT_REJECTED, EXIT_USAGE, EXIT_ERROR = 1, 2, 3

COMMANDS = (
    "score",
    "gate",
    "compare",
    "label",
    "scale",
    "check",
    "eval",
    "eval-distortions",
    "fit",
    "distill",
    "train",
    "export",
    "compress",
    "ladder",
    "eval-compress",
    "batch",
    "report",
    "calibrate",
    "tune",
    "suggest",
    "watch",
    "bench",
    "serve",
    "plugins",
)


class QInsightGroup(click.Group):
    """Imports the built-in commands when asked for them, and plugins only when they may matter."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        load_plugin_commands(self)
        return [*COMMANDS, *sorted(self.commands)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            name = cmd_name.replace("-", "_")
            module = importlib.import_module(f"qinsight_plugin.cli.{name}_command")
            command: click.Command = module.command
            return command
        load_plugin_commands(self)
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Whoever read the output has left; click would exit with 1, as for a rejection. What is
            # still to be flushed goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_ERROR


def load_plugin_commands(group: click.Group) -> None:
    from qinsight_plugin.plugins import default_host

    host = default_host()
    if not group.commands:
        host.call("qinsight_register_commands", cli=group)
    for taken in group.commands.keys() & set(COMMANDS):
        raise ConfigError(f"a plugin adds the command {taken!r}, which is built in; block it")


@click.group(
    cls=QInsightGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 accepted or done, 1 rejected, 2 wrong usage, 3 error.",
)
@click.version_option(__version__, package_name="qinsight-plugin", message="qinsight %(version)s")
def cli() -> None:
    """Score pictures as people would, and let only the good ones through.

    The scale is the mean opinion score: 1 bad, 2 poor, 3 fair, 4 good, 5 excellent.
    """


def main() -> None:
    """Run the command line and exit with its code."""
    open_streams()
    try:
        code = cli.main(standalone_mode=False)
    except click.Abort:
        click.echo("Interrupted.", err=True)
        code = 130
    except click.ClickException as error:
        error.show()
        code = EXIT_USAGE
    except QInsightError as error:
        click.echo(f"Error: {error}", err=True)
        code = EXIT_ERROR
    except OSError as error:
        # Output that cannot be written, for one.
        click.echo(f"Error: {error}", err=True)
        code = EXIT_ERROR
    except Exception:  # a mistake, of ours or a plugin's: Python would exit with 1, too
        traceback.print_exc()
        code = EXIT_ERROR
    sys.exit(code if isinstance(code, int) else 0)


def open_streams() -> None:
    """Put nothing in the place of streams that whoever started us has closed: Python has None."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            nothing = open(os.devnull, mode, errors="backslashreplace")  # noqa: PTH123, SIM115
            os.set_inheritable(nothing.fileno(), True)  # for processes that we start
            setattr(sys, name, nothing)

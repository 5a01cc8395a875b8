"""The argument parser of the commands: errors in one line, and the version."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

from ccnet3d import __version__
from ccnet3d.errors import UserError

__all__ = ["CommandParser", "refuse_unused"]


class CommandParser(argparse.ArgumentParser):
    r"""A parser that prints an error in one line, without the usage, and has ``--version``.

    >>> parser = CommandParser(prog="ccnet3d-view")
    >>> parser.format_usage()
    'usage: ccnet3d-view [-h] [--version]\n'
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        name = self.prog.partition(" ")[0]  # without the name of a subcommand
        self.add_argument(
            "--version",
            action="version",
            version=f"{name} {__version__}",
            help="show the version and exit",
        )

    def error(self, message: str) -> NoReturn:
        """Print the error, and how to list the options; exit with code 2."""
        first, _, rest = message.partition(": ")
        if first == "unrecognized arguments":
            names = [name for name in rest.split(" ") if name.startswith("-") and Path(name).exists()]
            message += f" (write ./{names[0]} for the file of this name)" if names else ""
        line = " ".join(message.splitlines())
        self.exit(2, f"{self.prog}: error: {line}; {self.prog} --help lists the options\n")


def refuse_unused(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, names: Iterable[str], reason: str
) -> None:
    """Check that options which would have no effect are not given, or have their default values.

    Args:
        parser: of the command.
        arguments: what it parsed.
        names: of the options, as attributes of the arguments.
        reason: the rest of a sentence that begins with an option: what it is for, and the fix.

    Raises:
        UserError: one of them is given.

    >>> parser = CommandParser(prog="ccnet3d-view")
    >>> _ = parser.add_argument("--worst", type=int, default=8)
    >>> refuse_unused(parser, parser.parse_args(["--worst", "9"]), ["worst"], "is for --report; add --report")
    Traceback (most recent call last):
    ccnet3d.errors.UserError: --worst is for --report; add --report
    """
    for name in names:
        if getattr(arguments, name) != parser.get_default(name):
            raise UserError(f"--{name.replace('_', '-')} {reason}")

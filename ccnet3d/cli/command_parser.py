"""The argument parser of the commands: errors in one line, and the version."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from ccnet3d import __version__

__all__ = ["CommandParser"]


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

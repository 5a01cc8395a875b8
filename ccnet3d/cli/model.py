"""``ccnet3d-model``: what a model file contains, its card, and how to share it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from ccnet3d.cli.command_parser import CommandParser
from ccnet3d.cli.options import add_debug_option, print_now, run_command
from ccnet3d.cli.paths import model_name
from ccnet3d.wording import count_of

PROGRAM = "ccnet3d-model"

_MODEL = "model file, the name of weights in the package, or hf://ORG/NAME[/FILE][@REVISION]"


def build_parser() -> argparse.ArgumentParser:
    parser = CommandParser(prog=PROGRAM, description="Show, describe or share a model file.")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="print classes, recipe, scores, size and fingerprint")
    show.add_argument("model", type=model_name, metavar="MODEL", help=_MODEL)
    show.add_argument("--json", action="store_true", help="print one JSON object")
    card = actions.add_parser("card", help="print the model card, made from the file's own header")
    card.add_argument("model", type=model_name, metavar="MODEL", help=_MODEL)
    push = actions.add_parser("push", help="upload the model and its card to the Hugging Face hub")
    push.add_argument("model", type=model_name, metavar="MODEL", help=_MODEL)
    push.add_argument("repository", metavar="ORG/NAME", help="the repository, which is created if it is missing")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    for action in (show, card, push):
        add_debug_option(action)
    return parser


def run(arguments: argparse.Namespace) -> None:
    from ccnet3d.models import describe_file, model_card, push_to_hub

    if arguments.action == "push":
        print_now(push_to_hub(arguments.model, arguments.repository, private=arguments.private))
    elif arguments.action == "card":
        print_now(model_card(arguments.model).rstrip())
    else:
        table = describe_file(arguments.model)
        print_now(json.dumps(table) if arguments.json else as_text(table))


def as_text(table: dict[str, Any]) -> str:
    """Return what :func:`ccnet3d.models.describe_file` found, one line per entry."""
    height, width = table["input_size"]
    scores = (f"{name} {'-' if value is None else f'{100 * value:.2f}'}" for name, value in table["scores"].items())
    rows = {
        "file": f"{table['file']} ({table['bytes'] / 1e6:.1f} MB)",
        "backbone": table["backbone"],
        "parameters": f"{table['parameters']:,}",
        "weights": f"SHA-256 {table['weights_sha256']}",
        "context": table["context"],
        "attention loops": f"{table['loops']} over features, {table['evidence_loops']} over class evidence",
        "clip length": table["clip_length"],
        "input size": f"{height}x{width} (height x width)",
        "trained on": table["dataset"] or "not recorded",
        "scores in %": ", ".join(scores) or "not recorded",
        count_of(len(table["classes"]), "class", "classes"): ", ".join(table["classes"]),
        "recipe": json.dumps(table["recipe"]) if table["recipe"] else "not recorded",
    }
    return "\n".join(f"{name:<17}{value}" for name, value in rows.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    arguments = build_parser().parse_args(argv)
    return run_command(PROGRAM, lambda: run(arguments), debug=arguments.debug)


if __name__ == "__main__":
    sys.exit(main())

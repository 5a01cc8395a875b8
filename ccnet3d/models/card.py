"""Model cards, made from what a model file says about itself, and model files on a hub."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ccnet3d.models.hub import HUB_PREFIX, upload
from ccnet3d.models.model_header import ModelInfo, find_model, read_info, summarize_weights
from ccnet3d.wording import count_of

if TYPE_CHECKING:
    from ccnet3d.models.ccnet3d import CCNet3D

__all__ = ["describe_file", "model_card", "push_to_hub"]


def describe_file(path: Path | str | None) -> dict[str, Any]:
    """Return what a model file says about itself, as plain JSON; PyTorch is not imported, and no network is built.

    Args:
        path: a file, the name of weights in the package, or an address ``hf://ORG/NAME``.

    Raises:
        UserError: it is not a model file.

    >>> table = describe_file("default")
    >>> table["classes"][0], table["parameters"], table["input_size"]
    ('Sky', 748426, [608, 800])
    """
    file = find_model(path)
    info = read_info(file)
    weights = summarize_weights(file)
    return {
        "file": str(file),
        "bytes": file.stat().st_size,
        "parameters": weights.parameters,
        "weights_sha256": weights.sha256,
        "backbone": info.model.backbone,
        "context": info.model.context,
        "loops": info.model.attention_loops,
        "evidence_loops": info.model.evidence_loops,
        "clip_length": info.clip_length,
        "input_size": list(info.input_size),
        "dataset": info.dataset,
        "scores": dict(info.scores),
        "classes": list(info.class_names),
        "palette": [list(color) for color in info.palette],
        "recipe": dict(info.recipe),
    }


def model_card(path: Path | str | None, repository: str = "ORG/NAME") -> str:
    """Return a model card, Markdown with the metadata that hubs read at its top, from the file's own header.

    Args:
        path: see :func:`describe_file`.
        repository: under which the card says the model can be loaded.

    >>> "| 0 | Sky |" in model_card("default")
    True
    """
    from huggingface_hub import ModelCardData

    table = describe_file(path)
    data = ModelCardData(
        library_name="ccnet3d",
        pipeline_tag="image-segmentation",
        tags=["ccnet3d", "video-semantic-segmentation", "semantic-segmentation"],
    )
    classes = zip(table["classes"], table["palette"], strict=True)
    height, width = table["input_size"]
    return "\n".join(
        [
            "---",
            data.to_yaml().rstrip(),
            "---",
            "",
            f"# {repository.rpartition('/')[2]}",
            "",
            f"A model of ccnet3d: it segments videos into {count_of(len(table['classes']), 'class', 'classes')}.",
            "",
            "```",
            f"ccnet3d-infer video.mp4 -o masks --checkpoint {HUB_PREFIX}{repository}",
            "```",
            "",
            "## Model",
            "",
            f"- Backbone {table['backbone']}, {_context(table)}, clips of {count_of(table['clip_length'], 'frame')}",
            f"- {table['parameters']:,} parameters, {table['bytes'] / 1e6:.1f} MB",
            f"- Frames are resized to the area of {width}x{height} pixels",
            f"- SHA-256 of the weights: `{table['weights_sha256']}`",
            "",
            "## Classes",
            "",
            "| id | name | color |",
            "|---|---|---|",
            *(f"| {i} | {_cell(name)} | {', '.join(map(str, color))} |" for i, (name, color) in enumerate(classes)),
            "",
            "## Training data",
            "",
            table["dataset"] or "Not recorded.",
            "",
            "## Scores",
            "",
            *_scores(table["scores"]),
            "",
            "## Limits",
            "",
            "The model knows only the classes above, and scenes like those of its training data; elsewhere its masks "
            "may be wrong without a sign of it. Scores of one dataset do not tell how well it works on another.",
            "",
            "## Recipe",
            "",
            "```json",
            json.dumps(table["recipe"], indent=1).replace("```", ""),
            "```",
            "",
        ]
    )


def push_to_hub(model: Path | str | tuple[CCNet3D, ModelInfo] | None, repository: str, *, private: bool = False) -> str:
    """Upload a model and a card made from its header to the Hugging Face hub, and return the address of the commit.

    Args:
        model: a file, the name of weights in the package, or a model and its info.
        repository: ``ORG/NAME``; created if it is missing.
        private: whether a new repository is private.

    Raises:
        UserError: not a model file, no connection, or no permission.
    """
    from ccnet3d.models.zoo import load_model, save_model

    if not isinstance(model, tuple):
        load_model(model)  # so that no file is shared whose weights do not match its header
        return upload(find_model(model), model_card(model, repository), repository, private=private)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.safetensors")
        save_model(path, *model)
        return upload(path, model_card(path, repository), repository, private=private)


def _scores(scores: Mapping[str, float | None]) -> list[str]:
    if not scores:
        return ["Not recorded."]
    rows = [f"| {_cell(name)} | {'-' if value is None else f'{100 * value:.2f}'} |" for name, value in scores.items()]
    return ["| score | % |", "|---|---|", *rows]


def _context(table: Mapping[str, Any]) -> str:
    """Return what gathers context in the model, in words."""
    parts = []
    if table["context"] not in ("criss_cross", "none"):
        parts.append(f"context module {table['context']}")
    elif table["loops"]:
        parts.append(f"{count_of(table['loops'], 'loop')} of criss-cross attention")
    if table["evidence_loops"]:
        parts.append(f"{count_of(table['evidence_loops'], 'loop')} of criss-cross attention over class evidence")
    return " and ".join(parts) or "no context module"


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())

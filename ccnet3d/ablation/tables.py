"""The runs of an ablation as tables (Markdown, CSV, JSON) and as a plot."""

from __future__ import annotations

import csv
import io
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ccnet3d.ablation.runner import COST, AblationConfig, RunResult
from ccnet3d.ablation.timing import Cost
from ccnet3d.files import atomic_path, write_atomically

_TITLES = {"miou": "mIoU (pooled)", "per_frame_miou": "per-frame mIoU", "video_miou": "video mIoU"}
_NOTES = """\
Scores of the {split} split in percent, flicker the lower the better. ± is the sample standard deviation over seeds, if
there are several. A difference is a variant's score less that of the first with the same seed, in points; one inside
its ± shows nothing. The cost of a frame is the time of inference over that of the first variant, all timed in turn: the
median over the rounds, and in brackets the least and the largest."""


@dataclass(frozen=True)
class Statistic:
    """Mean and sample standard deviation (n - 1 in the denominator) of n values, None where there are too few."""

    mean: float | None
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Statistic:
        mean = statistics.fmean(values) if values else None
        return cls(mean, statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Row:
    """A variant over its seeds."""

    variant: str
    overrides: tuple[str, ...]
    results: tuple[RunResult, ...]
    scores: Mapping[str, Statistic]
    """By metric."""
    differences: Mapping[str, Statistic]
    """To the first variant, of the runs with the same seed; of the first variant itself, none."""
    cost: Cost | None


def summarise(config: AblationConfig, results: Sequence[RunResult], costs: Mapping[str, Cost]) -> list[Row]:
    """One row for each variant, in the order of the file."""
    rows = []
    first = config.variants[0].name
    of_first = {result.seed: result.scores for result in results if result.variant == first}
    for variant in config.variants:
        own = tuple(result for result in results if result.variant == variant.name)
        values: dict[str, list[float]] = {name: [] for name in config.metrics}
        differences: dict[str, list[float]] = {name: [] for name in config.metrics}
        for result in own:
            for name in config.metrics:
                value, base = result.scores.get(name), of_first.get(result.seed, {}).get(name)
                if value is not None:
                    values[name].append(value)
                    if base is not None:
                        differences[name].append(value - base)
        rows.append(
            Row(
                variant.name,
                variant.overrides,
                own,
                {name: Statistic.of(some) for name, some in values.items()},
                {name: Statistic.of(some) for name, some in differences.items()} if variant.name != first else {},
                costs.get(variant.name),
            )
        )
    return rows


def write_ablation_report(
    out: Path,
    config: AblationConfig,
    rows: Sequence[Row],
    header: Mapping[str, Any],
    *,
    absolute_cost: bool,
    plot: bool,
) -> str:
    """Write table.md, table.csv and table.json to a folder, and plot.png on request.

    Args:
        out: the folder.
        config: the ablation.
        rows: see :func:`summarise`.
        header: what a reader must know beside the scores, by name; ``ablation`` and ``split`` among it.
        absolute_cost: whether seconds are given beside the cost relative to the first variant.
        plot: whether to draw; needs matplotlib.

    Returns:
        The Markdown.
    """
    costs = {row.variant: _cost_table(row.cost, absolute_cost) for row in rows}
    variants = [{**asdict(row), "cost": costs[row.variant]} for row in rows]
    table = json.dumps({**header, "variants": variants}, indent=1)
    write_atomically(out / "table.json", f"{table}\n".encode())
    write_atomically(out / "table.csv", to_csv(config, rows, costs).encode())
    markdown = to_markdown(config, rows, header, absolute_cost=absolute_cost)
    write_atomically(out / "table.md", markdown.encode())
    if plot:
        draw(out / "plot.png", config, rows, f"{header['ablation']}, {header['split']}: mean ± standard deviation")
    return markdown


def to_csv(config: AblationConfig, rows: Sequence[Row], costs: Mapping[str, Mapping[str, float] | None]) -> str:
    """Shares in [0, 1]: a line for each run (``seed 0``), then the mean, its spread, the difference and its spread."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variant", "row", "n", *config.metrics, COST])
    for row in rows:
        for result in row.results:
            scores = [result.scores.get(name) for name in config.metrics]
            writer.writerow([row.variant, f"seed {result.seed}", int(bool(result.scores)), *scores, ""])
        cost = (costs[row.variant] or {}).get("relative")
        for kind, some in (("", row.scores), ("difference ", row.differences)):
            if some:
                n = some[config.metrics[0]].n
                means, spreads = ([getattr(some[name], key) for name in config.metrics] for key in ("mean", "std"))
                writer.writerow([row.variant, f"{kind}mean", n, *means, "" if kind else cost])
                writer.writerow([row.variant, f"{kind}standard deviation", n, *spreads, ""])
    return text.getvalue()


def to_markdown(config: AblationConfig, rows: Sequence[Row], header: Mapping[str, Any], *, absolute_cost: bool) -> str:
    """The tables that people read, in percent."""
    titles = [title_of(name) for name in config.metrics]
    means = [
        [row.variant, _runs(row), *(_spread(name, row.scores[name]) for name in config.metrics),
         _cost(row.cost, absolute_cost)]
        for row in rows
    ]  # fmt: skip
    differences = [
        [row.variant, str(row.differences["miou"].n), *(_spread(n, row.differences[n], "+") for n in config.metrics)]
        for row in rows[1:]
    ]
    runs = [
        [row.variant, str(result.seed), *(_percent(name, result.scores.get(name)) for name in config.metrics)]
        for row in rows
        for result in row.results
    ]
    parts = [
        f"# Ablation {header['ablation']}",
        "\n".join(f"- {key}: {value}" for key, value in header.items() if key != "ablation"),
        _NOTES.format(split=header["split"]),
        _table(["variant", "runs", *titles, "cost of a frame"], means),
        *(
            [f"Difference to {rows[0].variant}:", _table(["variant", "pairs", *titles], differences)]
            if rows[1:]
            else []
        ),
        "Single runs:",
        _table(["variant", "seed", *titles], runs),
        *(f"{r.variant}, seed {r.seed}: {r.error}." for row in rows for r in row.results if r.error),
    ]
    return "\n\n".join(parts) + "\n"


def draw(path: Path, config: AblationConfig, rows: Sequence[Row], title: str) -> None:
    """One panel for each score: of each variant a point for each run, mean and standard deviation over seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    width = max(3.0, 0.8 * len(rows))
    rotation = 20 if max(len(row.variant) for row in rows) > 8 else 0
    figure, panels = plt.subplots(1, len(config.plotted), figsize=(width * len(config.plotted), 3.6), squeeze=False)
    for panel, name in zip(panels[0], config.plotted, strict=True):
        for place, row in enumerate(rows):
            for x, y in _points(row, name):
                panel.plot(place + x, y, ".", color="tab:grey", markersize=5, zorder=1)
            mean, below, above = _bar(row, name)
            if mean is not None:
                panel.errorbar(place, mean, [[below], [above]], fmt="o", color="tab:blue", capsize=4, zorder=2)
        panel.set_xticks(range(len(rows)), [row.variant for row in rows], rotation=rotation)
        panel.set_xlim(-0.5, len(rows) - 0.5)
        panel.set_title(f"{title_of(name)}{' (range)' if name == COST else ', %'}", fontsize=10)
        panel.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)


def title_of(name: str) -> str:
    """A score's name for people: ``vc8_strict`` is VC8 strict."""
    if name == COST:
        return "cost of a frame, relative"
    return _TITLES.get(name) or name.replace("vc", "VC").replace("_", " ")


def _points(row: Row, name: str) -> Iterator[tuple[float, float]]:
    """Place beside the variant's and value of each run."""
    values = [value for r in row.results if name != COST and (value := r.scores.get(name)) is not None]
    for number, value in enumerate(values):
        yield 0.12 + 0.06 * number, 100 * value


def _bar(row: Row, name: str) -> tuple[float | None, float, float]:
    """Mean, and how far the bar reaches below and above it."""
    if name == COST:
        cost = row.cost
        return (cost.relative, cost.relative - cost.low, cost.high - cost.relative) if cost else (None, 0, 0)
    score = row.scores[name]
    spread = 100 * (score.std or 0)
    return None if score.mean is None else 100 * score.mean, spread, spread


def _cost_table(cost: Cost | None, absolute: bool) -> dict[str, float] | None:
    table = asdict(cost) if cost else None
    if table and not absolute:
        del table["seconds"]
    return table


def _runs(row: Row) -> str:
    done = sum(1 for result in row.results if result.scores)
    return str(done) if done == len(row.results) else f"{done} of {len(row.results)}"


def _percent(name: str, value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{100 * value:{sign}.{3 if name == 'flicker' else 2}f}"


def _spread(name: str, score: Statistic, sign: str = "") -> str:
    mean = _percent(name, score.mean, sign)
    return mean if score.std is None else f"{mean} ± {_percent(name, score.std)}"


def _cost(cost: Cost | None, absolute: bool) -> str:
    if cost is None:
        return "-"
    relative = f"{cost.relative:.2f} ({cost.low:.2f} to {cost.high:.2f})"
    return f"{relative}, {1000 * cost.seconds:.2f} ms" if absolute else relative


def _table(titles: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(titles) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (titles, rule, *lines))

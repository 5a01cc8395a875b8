"""Tables (Markdown, CSV, JSON) and a plot of the runs of an ablation."""

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
from ccnet3d.evaluation import find_score
from ccnet3d.files import atomic_path, write_atomically
from ccnet3d.journal import check_files, claimed_folder

__all__ = ["Row", "Statistic", "check_ablation_folder", "summarize_variants", "write_ablation_report"]

_NOTES = """\
Scores on the {split} split in percent{lower}. ± is the sample standard deviation over seeds, if there are several. A
difference is a variant's score minus the first variant's with the same seed, in percentage points; a difference smaller
than its ± is inconclusive. The cost per frame is the inference time relative to the first variant's, all variants
being timed in turn: the median over the rounds, with minimum and maximum in parentheses."""


@dataclass(frozen=True)
class Statistic:
    """Mean and sample standard deviation (n - 1 in the denominator) of n values, None if there are too few.

    >>> Statistic.of([0.25, 0.75])
    Statistic(mean=0.5, std=0.3535533905932738, n=2)
    """

    mean: float | None
    std: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Statistic:
        """Return the statistic of a list of values."""
        mean = statistics.fmean(values) if values else None
        return cls(mean, statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Row:
    """The results of a variant over its seeds."""

    variant: str
    overrides: tuple[str, ...]
    results: tuple[RunResult, ...]
    scores: Mapping[str, Statistic]
    """By name."""
    differences: Mapping[str, Statistic]
    """By name, differences to the first variant's runs with the same seed; empty for the first variant itself."""
    cost: Cost | None


def summarize_variants(config: AblationConfig, results: Sequence[RunResult], costs: Mapping[str, Cost]) -> list[Row]:
    """Return one row per variant, in the order of the file.

    >>> from ccnet3d.ablation import Variant
    >>> config = AblationConfig("camvid_lite", (Variant("a"), Variant("b")))
    >>> results = [RunResult("a", 0, {"miou": 0.5}, "a machine"), RunResult("b", 0, {"miou": 0.75}, "a machine")]
    >>> summarize_variants(config, results, {})[1].differences["miou"].mean
    0.25
    """
    rows = []
    first = config.variants[0].name
    of_first = {result.seed: result.scores for result in results if result.variant == first}
    for variant in config.variants:
        own = tuple(result for result in results if result.variant == variant.name)
        values: dict[str, list[float]] = {name: [] for name in config.score_names}
        differences: dict[str, list[float]] = {name: [] for name in config.score_names}
        for result in own:
            for name in config.score_names:
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


def check_ablation_folder(out: Path, *, plot: bool) -> None:
    """Check that the tables can be written to a folder, before anything is trained.

    Raises:
        UserError: the folder has a file of one of their names that no ablation wrote.
    """
    check_files(out, _files(plot=plot))


def _files(*, plot: bool) -> list[str]:
    return ["table.json", "table.csv", "table.md", *(["plot.png"] if plot else [])]


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
        rows: see :func:`summarize_variants`.
        header: what a reader must know in addition to the scores, by name; includes ``ablation`` and ``split``.
        absolute_cost: whether to report seconds in addition to the cost relative to the first variant.
        plot: whether to draw; needs matplotlib.

    Returns:
        The Markdown.

    Raises:
        UserError: the folder has a file of these names that no ablation wrote, or another process writes to it.
    """
    costs = {row.variant: _cost_table(row.cost, absolute_cost) for row in rows}
    variants = [{**asdict(row), "cost": costs[row.variant]} for row in rows]
    table = json.dumps({**header, "variants": variants}, indent=1)
    markdown = _to_markdown(config, rows, header, absolute_cost=absolute_cost)
    with claimed_folder(out, _files(plot=plot)):
        write_atomically(out / "table.json", f"{table}\n".encode())
        write_atomically(out / "table.csv", _to_csv(config, rows, costs).encode())
        write_atomically(out / "table.md", markdown.encode())
        if plot:
            _draw(out / "plot.png", config, rows, f"{header['ablation']}, {header['split']}: mean ± standard deviation")
    return markdown


def _to_csv(config: AblationConfig, rows: Sequence[Row], costs: Mapping[str, Mapping[str, float] | None]) -> str:
    """Return shares in [0, 1]: a line per run (``seed 0``), then mean and spread of scores and of differences."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variant", "row", "n", *config.score_names, COST])
    for row in rows:
        for result in row.results:
            scores = [result.scores.get(name) for name in config.score_names]
            writer.writerow([row.variant, f"seed {result.seed}", int(bool(result.scores)), *scores, ""])
        cost = (costs[row.variant] or {}).get("relative")
        for kind, some in (("", row.scores), ("difference ", row.differences)):
            if some:
                n = some[config.score_names[0]].n
                means, spreads = ([getattr(some[name], key) for name in config.score_names] for key in ("mean", "std"))
                writer.writerow([row.variant, f"{kind}mean", n, *means, "" if kind else cost])
                writer.writerow([row.variant, f"{kind}standard deviation", n, *spreads, ""])
    return text.getvalue()


def _to_markdown(config: AblationConfig, rows: Sequence[Row], header: Mapping[str, Any], *, absolute_cost: bool) -> str:
    """Return the tables for readers, in percent."""
    names = config.score_names
    titles = [_title_of(name) for name in names]
    means = [
        [row.variant, _runs(row), *(_spread(name, row.scores[name]) for name in names),
         _cost(row.cost, absolute_cost)]
        for row in rows
    ]  # fmt: skip
    differences = [
        [
            row.variant,
            str(row.differences["miou"].n),
            *(_spread(n, row.differences[n], "+") for n in names),
        ]
        for row in rows[1:]
    ]
    runs = [
        [row.variant, str(result.seed), *(_percent(name, result.scores.get(name)) for name in names)]
        for row in rows
        for result in row.results
    ]
    parts = [
        f"# Ablation {header['ablation']}",
        "\n".join(f"- {key}: {value}" for key, value in header.items() if key != "ablation"),
        _NOTES.format(split=header["split"], lower=_lower_is_better(config)),
        _table(["variant", "runs", *titles, "cost per frame"], means),
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


def _draw(path: Path, config: AblationConfig, rows: Sequence[Row], title: str) -> None:
    """Draw one panel per score: for each variant a point per run, and mean and standard deviation over seeds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    width = max(3.0, 0.8 * len(rows))
    rotation = 20 if max(len(row.variant) for row in rows) > 8 else 0
    figure, panels = plt.subplots(1, len(config.plotted), figsize=(width * len(config.plotted), 3.6), squeeze=False)
    for panel, name in zip(panels[0], config.plotted, strict=True):
        for column, row in enumerate(rows):
            for x, y in _points(row, name):
                panel.plot(column + x, y, ".", color="tab:gray", markersize=5, zorder=1)
            mean, below, above = _bar(row, name)
            if mean is not None:
                panel.errorbar(column, mean, [[below], [above]], fmt="o", color="tab:blue", capsize=4, zorder=2)
        panel.set_xticks(range(len(rows)), [row.variant for row in rows], rotation=rotation)
        panel.set_xlim(-0.5, len(rows) - 0.5)
        panel.set_title(f"{_title_of(name)}{' (range)' if name == COST else ', %'}", fontsize=10)
        panel.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    plt.close(figure)


def _title_of(name: str) -> str:
    return "cost per frame, relative" if name == COST else find_score(name).title


def _lower_is_better(config: AblationConfig) -> str:
    titles = [score.title for score in map(find_score, config.score_names) if not score.higher_is_better]
    return f" ({', '.join(titles)}: lower is better)" if titles else ""


def _points(row: Row, name: str) -> Iterator[tuple[float, float]]:
    """Yield the offset from the variant's column, and the value, of each run."""
    values = [value for r in row.results if name != COST and (value := r.scores.get(name)) is not None]
    for index, value in enumerate(values):
        yield 0.12 + 0.06 * index, 100 * value


def _bar(row: Row, name: str) -> tuple[float | None, float, float]:
    """Return the mean, and how far the bar extends below and above it."""
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

"""Several measured runs and bundles as one table: mean and standard deviation over runs of the same settings."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.answering import called
from training.config import TrainConfig
from training.data import bare_name
from training.flags import flags

METRICS = ("top1", "top5", "nll", "ece")


@dataclass(frozen=True)
class Entry:
    """A run or a bundle in the table. lineage: what makes its row, by flag (lineage.py); result: what was measured."""

    config: TrainConfig
    lineage: Mapping[str, str]
    result: dict[str, Any]


def comparison(entries: Sequence[Entry]) -> dict[str, Any]:
    """The table and what it was made from. entries: measured on the same split, of the same classes."""
    table = [
        {"row": name, "mode": mode} | _row(group, mode)
        for name, group in _rows(entries)
        for mode in _modes_of_all(group)
    ]
    first = entries[0].result
    return {
        "split": first["split"],
        "classes": first["classes"],
        "table": table,
        "runs": [{"seed": entry.config.seed} | entry.result for entry in entries],
    }


def mean_and_sd(values: Sequence[float]) -> dict[str, float | None]:
    """The mean, and the standard deviation of the sample (over n - 1); None of a single value."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": spread}


def lines(entries: Sequence[Entry]) -> list[str]:
    """The table as it is printed, with the modes that a teacher answers in marked."""
    result, rows = comparison(entries), dict(_rows(entries))
    table = [
        row | {"mode": called(rows[row["row"]][0].config, row["mode"])} for row in result["table"]
    ]
    header = ["trained as", "mode", "passes", "runs", "top-1 %", "top-5 %", "NLL", "ECE"]
    cells = [header, *(_cells(row) for row in table)]
    if all(row["top5"] is None for row in table):
        cells = [[*row[:5], *row[6:]] for row in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    images = " or ".join(str(n) for n in dict.fromkeys(row["n"] for row in table))
    about = f"{result['split']} split, {images} images; mean ± standard deviation over the runs:"
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
    return [about, *(("  " + "  ".join(row)).rstrip() for row in padded)]


def _rows(entries: Sequence[Entry]) -> list[tuple[str, list[Entry]]]:
    """The name of each row, and its entries."""
    groups: dict[tuple[tuple[str, str], ...], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(tuple(_settings(entry).items()), []).append(entry)
    names = _row_names([dict(key) for key in groups])
    return list(zip(names, groups.values(), strict=True))


def _settings(entry: Entry) -> dict[str, str]:
    """What makes a row: whether a run or a bundle was measured, its lineage, and where its data lies."""
    engine = {"engine": entry.result["engine"]}
    return {**engine, **entry.lineage, "data": entry.config.data.data}


def _row_names(groups: Sequence[dict[str, str]]) -> list[str]:
    """Each row by its objective and whatever else differs between the rows; folders only where nothing else does."""
    short = _named([group | {"data": bare_name(group["data"])} for group in groups])
    return short if len(set(short)) == len(short) else _named(groups)


def _named(groups: Sequence[dict[str, str]]) -> list[str]:
    """By the objective, and the flags that differ between those that have them (not all have a teacher's).

    What a row has by default is not said of it: another row says what it has instead.
    """
    given = dict.fromkeys(flag for group in groups for flag in group if flag != "objective")
    others = [flag for flag in given if len({g[flag] for g in groups if flag in g}) > 1]
    usual = {flag: value for flag, value in flags(TrainConfig()).items() if flag != "data"}
    usual |= {f"teacher.{flag}": value for flag, value in usual.items()}
    return [
        ", ".join(
            [
                group["objective"],
                *(
                    f"{flag} {group[flag]}"
                    for flag in others
                    if flag in group and group[flag] != usual.get(flag)
                ),
            ]
        )
        for group in groups
    ]


def _modes_of_all(group: Sequence[Entry]) -> list[str]:
    """The modes that every one of the group has: a bundle from before `auto` lacks that one."""
    first, *others = [entry.result["modes"] for entry in group]
    return [mode for mode in first if all(mode in other for other in others)]


def _row(group: Sequence[Entry], mode: str) -> dict[str, Any]:
    measured = [entry.result["modes"][mode] for entry in group]
    row: dict[str, Any] = {
        "runs": len(group),
        "seeds": [entry.config.seed for entry in group],
        "n": measured[0]["n"],
        "forward_passes": statistics.fmean(one["forward_passes"] for one in measured),
    }
    for key in METRICS:
        values = [one[key] for one in measured]
        row[key] = None if None in values else mean_and_sd(values)
    return row


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [
        row["row"],
        row["mode"],
        f"{row['forward_passes']:.4g}",  # of auto a mean
        str(row["runs"]),
        _spread(row["top1"], 100, ".2f"),
        _spread(row["top5"], 100, ".2f"),
        _spread(row["nll"], 1, ".4f"),
        _spread(row["ece"], 1, ".4f"),
    ]


def _spread(value: Mapping[str, Any] | None, scale: float, form: str) -> str:
    if value is None:
        return "-"
    mean = f"{scale * value['mean']:{form}}"
    return mean if value["sd"] is None else f"{mean} ± {scale * value['sd']:{form}}"

"""Several measured runs and bundles as one table: mean and standard deviation over runs of the same settings."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from training.config import TrainConfig
from training.config_json import to_dict
from training.data import bare_name

# settings that decide where and when a run is made, not what it is; the seed is what the mean is over
NO_PART_OF_A_ROW = ("seed", "out", "resume", "device")
OF_DATA = ("data_dir", "workers", "resident_gib")
METRICS = ("top1", "top5", "nll", "ece")

Entry = tuple[TrainConfig, dict[str, Any]]  # the settings of a run, and what was measured of it


def comparison(entries: Sequence[Entry]) -> dict[str, Any]:
    """The table and what it was made from. entries: measured on the same split, of the same classes."""
    groups: dict[tuple[tuple[str, str], ...], list[Entry]] = {}
    for config, result in entries:
        groups.setdefault(tuple(_settings(config, result).items()), []).append((config, result))
    names = _row_names([dict(key) for key in groups])
    table = [
        {"row": name, "mode": mode} | _row(group, mode)
        for name, group in zip(names, groups.values(), strict=True)
        for mode in _modes_of_all(group)
    ]
    first = entries[0][1]
    return {
        "split": first["split"],
        "classes": first["classes"],
        "table": table,
        "runs": [{"seed": config.seed} | result for config, result in entries],
    }


def mean_and_sd(values: Sequence[float]) -> dict[str, float | None]:
    """The mean, and the standard deviation of the sample (over n - 1); None of a single value."""
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": spread}


def lines(result: Mapping[str, Any]) -> list[str]:
    """The table as it is printed."""
    table = result["table"]
    header = ["trained as", "mode", "passes", "runs", "top-1 %", "top-5 %", "NLL", "ECE"]
    cells = [header, *(_cells(row) for row in table)]
    if all(row["top5"] is None for row in table):
        cells = [[*row[:5], *row[6:]] for row in cells]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    images = " or ".join(str(n) for n in dict.fromkeys(row["n"] for row in table))
    about = f"{result['split']} split, {images} images; mean ± standard deviation over the runs:"
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
    return [about, *(("  " + "  ".join(row)).rstrip() for row in padded)]


def _settings(config: TrainConfig, result: Mapping[str, Any]) -> dict[str, str]:
    """The settings that make a row, flat, as text; and whether a run or a bundle was measured."""
    values = to_dict(config)
    flat = {key: value for key, value in values.items() if key not in NO_PART_OF_A_ROW}
    flat |= {key: value for key, value in flat.pop("data").items() if key not in OF_DATA}
    flat |= {f"optim.{key}": value for key, value in flat.pop("optim").items()}
    return {"engine": result["engine"]} | {key: str(value) for key, value in flat.items()}


def _row_names(groups: Sequence[dict[str, str]]) -> list[str]:
    """Each row by its objective and whatever else differs between the rows; folders only where nothing else does."""
    short = _named([group | {"data": bare_name(group["data"])} for group in groups])
    return short if len(set(short)) == len(short) else _named(groups)


def _named(groups: Sequence[dict[str, str]]) -> list[str]:
    others = [
        key for key in groups[0] if key != "objective" and len({group[key] for group in groups}) > 1
    ]
    return [
        ", ".join(
            [group["objective"], *(f"{key.replace('_', '-')} {group[key]}" for key in others)]
        )
        for group in groups
    ]


def _modes_of_all(group: Sequence[Entry]) -> list[str]:
    """The modes that every one of the group has: a bundle from before `auto` lacks that one."""
    first, *others = [result["modes"] for _, result in group]
    return [mode for mode in first if all(mode in other for other in others)]


def _row(group: Sequence[Entry], mode: str) -> dict[str, Any]:
    measured = [result["modes"][mode] for _, result in group]
    row: dict[str, Any] = {
        "runs": len(group),
        "seeds": [config.seed for config, _ in group],
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

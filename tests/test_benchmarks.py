"""The arithmetic between runs and tables."""

import pytest

from benchmarks import accuracy, tables


def entry(row: str, seed: int, top1: float) -> dict[str, object]:
    values = {"top1": top1, "nll": 0.5, "ece": 0.1, "n": 359, "forward_passes": 1}
    return {"row": row, "seed": seed, "seconds": 10.0 * (seed + 1), "test": {"plain": values}}


def test_table_has_mean_and_sample_deviation_of_every_row():
    lines = accuracy.table([entry("a", 0, 0.9), entry("b", 0, 0.5), entry("a", 1, 1.0)])
    assert [(line["row"], line["mode"], line["seeds"]) for line in lines] == [
        ("a", "plain", 2),
        ("b", "plain", 1),
    ]
    assert lines[0]["top1"] == {
        "mean": pytest.approx(0.95),
        "sd": pytest.approx(0.0707107, abs=1e-6),
    }
    assert lines[0]["seconds"]["mean"] == 15.0
    assert lines[1]["top1"]["sd"] is None


def test_every_row_sees_the_same_split_and_five_seeds():
    for experiment in accuracy.EXPERIMENTS.values():
        assert len(set(experiment.seeds)) >= 5
        assert len({config.data for config in experiment.rows.values()}) == 1


def test_text_outside_tables_is_left_alone():
    assert tables.filled("# Title\n\nno table here\n") == "# Title\n\nno table here\n"


def test_unknown_table_is_an_error():
    with pytest.raises(FileNotFoundError):
        tables.filled("<!-- table: nothing -->\n<!-- end of table -->")

"""Where a model comes from, as its bundle's manifest says it: names no path of this machine."""

from typing import Any

from export import lineage
from training import data
from training.checkpoint import Run
from training.config import TrainConfig
from training.config_json import to_dict
from training.flags import without_paths
from training.teacher import has_teacher, open_kept


def provenance(run: Run[Any]) -> dict[str, Any]:
    """The data, the weights that training began with, the seed, the settings and the versions of a run.

    And the settings of the runs that it learnt from, a teacher or `--weights`: their folders' names say too little.
    """
    taught = isinstance(run.config, TrainConfig) and has_teacher(run)
    weights_of_teacher = open_kept(run).problem.pretrained_weights if taught else None
    return {
        "data": data.bare_name(run.config.data.data),
        "pretrained_weights": run.problem.pretrained_weights,
        "teacher_pretrained_weights": weights_of_teacher,
        "learnt_from": lineage.learnt_from(run),
        "seed": run.config.seed,
        "config": to_dict(without_paths(run.config)),
        "versions": run.problem.versions,
    }

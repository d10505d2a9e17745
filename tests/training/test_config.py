import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import tyro

from training.config import DataConfig, OptimConfig, TrainConfig
from training.config_json import from_dict, to_dict
from training.errors import CheckpointError

FULL = TrainConfig(
    data=DataConfig(data="npz:x.npz", data_dir=Path("there"), image_size=32, workers=2),
    optim=OptimConfig(name="adamw", lr=0.5, schedule="step"),
    objective="baseline",
    epochs=3,
    out=Path("runs/one"),
)


@pytest.mark.parametrize("config", [TrainConfig(), FULL])
def test_settings_come_back_from_json(config: TrainConfig):
    assert from_dict(TrainConfig, json.loads(json.dumps(to_dict(config)))) == config


def test_setting_that_an_older_run_did_not_have_takes_its_default():
    values = to_dict(FULL)
    del values["loss"]["beta"]
    del values["augment"]
    del values["optim"]["warmup"]
    assert from_dict(TrainConfig, values) == FULL


MALFORMED: dict[str, dict[str, Any]] = {
    "unknown": {"mixup": 1.0},
    "unknown data": {"data": to_dict(FULL)["data"] | {"colour": "red"}},
    "data is a number": {"data": 5},
    "data is text": {"data": "digits"},
    "optim is a list": {"optim": [1]},
    "a path is a number": {"out": 7},
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_settings_are_refused(what: str):
    with pytest.raises(CheckpointError, match=r"config\.json is malformed"):
        from_dict(TrainConfig, to_dict(FULL) | MALFORMED[what])


def test_settings_without_their_data_are_refused():
    values = to_dict(FULL)
    del values["data"]
    with pytest.raises(CheckpointError, match="'data'"):
        from_dict(TrainConfig, values)


def test_flags_are_made_from_the_fields():
    arguments = (
        "--data mnist --optim.lr 0.5 --objective baseline --image-size 32 --no-channels-last"
    )
    found = tyro.cli(TrainConfig, args=arguments.split())
    expected = dataclasses.replace(
        TrainConfig(),
        data=DataConfig(data="mnist", image_size=32),
        optim=OptimConfig(lr=0.5),
        objective="baseline",
        channels_last=False,
    )
    assert found == expected

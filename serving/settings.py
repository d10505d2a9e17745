"""What a server is told when it starts: flags become environment variables, workers read those.

VIEWFOLD_BUNDLE     the bundle's folder; `bundle/` beside the package `serving` where it is not set
VIEWFOLD_MODE       the mode that answers requests that name none; the bundle's own default where it is not set
VIEWFOLD_DEVICE     auto, cpu or cuda; auto where it is not set
VIEWFOLD_WORKERS    processes that answer; 1 where it is not set
VIEWFOLD_ACCESS_LOG 1 for a line in the log for each request; none where it is not set

SettingsError       a setting that cannot be, or a port that cannot be had
"""

import os
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

from serving.limits import available_cpus
from serving.predictor import Device

ROOT = Path(__file__).resolve().parent.parent  # the repository, or `src/` of a Bento
DEFAULT_BUNDLE = ROOT / "bundle"


class SettingsError(Exception):
    """A server that cannot be started as asked; the message says which setting and what it may be."""


@dataclass(frozen=True)
class Settings:
    """What a server serves, and with what.

    mode: None for the bundle's own default.

    Raises:
        SettingsError: fewer than one worker, or a device that is not known.
    """

    bundle: Path = DEFAULT_BUNDLE
    mode: str | None = None
    device: Device = "auto"
    workers: int = 1
    access_log: bool = False

    def __post_init__(self) -> None:
        if self.device not in get_args(Device):
            raise SettingsError(
                f"unknown device {self.device!r}; choose from {list(get_args(Device))}"
            )
        if self.workers < 1:
            raise SettingsError(f"{self.workers} workers; at least 1 is needed")

    @property
    def threads(self) -> int:
        """Processor threads for each worker, so that all workers together use what there is."""
        return max(1, available_cpus() // self.workers)

    def environment(self) -> dict[str, str]:
        """The variables from which a worker reads the same settings; its own folder may be another."""
        chosen = {
            "VIEWFOLD_BUNDLE": str(self.bundle.absolute()),
            "VIEWFOLD_DEVICE": self.device,
            "VIEWFOLD_WORKERS": str(self.workers),
            "VIEWFOLD_ACCESS_LOG": str(int(self.access_log)),
        }
        return chosen if self.mode is None else {**chosen, "VIEWFOLD_MODE": self.mode}


def pin_bundle(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make VIEWFOLD_BUNDLE absolute: `bentoml serve` runs its workers in another folder than it was started in."""
    if given := environment.get("VIEWFOLD_BUNDLE"):
        environment["VIEWFOLD_BUNDLE"] = str(Path(given).expanduser().absolute())


def read(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings in the environment; a variable that is empty counts as not set.

    Raises:
        SettingsError: a value that is not one of those allowed.
    """
    workers = environment.get("VIEWFOLD_WORKERS") or "1"
    if not workers.isascii() or not workers.isdigit():
        raise SettingsError(f"VIEWFOLD_WORKERS is {workers!r}; it must be a whole number")
    access_log = environment.get("VIEWFOLD_ACCESS_LOG") or "0"
    if access_log not in ("0", "1"):
        raise SettingsError(f"VIEWFOLD_ACCESS_LOG is {access_log!r}; it must be 0 or 1")
    return Settings(
        bundle=Path(environment.get("VIEWFOLD_BUNDLE") or DEFAULT_BUNDLE).expanduser(),
        mode=environment.get("VIEWFOLD_MODE") or None,
        device=cast(Device, environment.get("VIEWFOLD_DEVICE") or "auto"),
        workers=int(workers),
        access_log=access_log == "1",
    )

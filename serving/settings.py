"""What a server is told when it starts: flags become environment variables, workers read those.

VIEWFOLD_BUNDLE     the bundle's folder, or one of bundles; `bundle/` beside the package `serving` where it is not set
VIEWFOLD_MODE       the mode that answers requests that name none; the bundle's own default where it is not set
VIEWFOLD_MODES      the modes to load, with commas between; all of them where it is not set
VIEWFOLD_DEVICE     auto, cpu or cuda; auto where it is not set
VIEWFOLD_WORKERS    processes that answer; 1 where it is not set
VIEWFOLD_ACCESS_LOG 1 for a line in the log for each request; none where it is not set
VIEWFOLD_WATCH      1 to follow what changes in the folder; not where it is not set
VIEWFOLD_ALLOW_LOAD 1 to let clients load and unload models; not where it is not set
VIEWFOLD_STRICT     1 to refuse to start where one bundle of several cannot be served; not where it is not set

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

    bundle: a bundle's folder, or a folder of bundles.
    mode: None for the bundle's own default. modes: None for all of them.
    watch: whether the server follows what changes in the folder. allow_load: whether clients may load and unload.
    strict: whether every one of several bundles must be there to start.

    Raises:
        SettingsError: fewer than one worker, no mode to load, or a device that is not known.
    """

    bundle: Path = DEFAULT_BUNDLE
    mode: str | None = None
    device: Device = "auto"
    workers: int = 1
    access_log: bool = False
    modes: tuple[str, ...] | None = None
    watch: bool = False
    allow_load: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        if self.device not in get_args(Device):
            raise SettingsError(
                f"unknown device {self.device!r}; choose from {list(get_args(Device))}"
            )
        if self.workers < 1:
            raise SettingsError(f"{self.workers} workers; at least 1 is needed")
        if self.modes is not None and not all(self.modes):
            given = ",".join(self.modes)
            raise SettingsError(
                f"modes is {given!r}; it must name modes with commas between, as in distilled,aggregated"
            )

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
            "VIEWFOLD_WATCH": str(int(self.watch)),
            "VIEWFOLD_ALLOW_LOAD": str(int(self.allow_load)),
            "VIEWFOLD_STRICT": str(int(self.strict)),
        }
        # empty counts as not set, and takes the place of what this process was told itself
        chosen["VIEWFOLD_MODE"] = self.mode or ""
        chosen["VIEWFOLD_MODES"] = "" if self.modes is None else ",".join(self.modes)
        return chosen


def mode_list(text: str | None) -> tuple[str, ...] | None:
    """The modes in a text with commas between them; None for an empty one."""
    return tuple(name.strip() for name in text.split(",")) if text else None


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
    return Settings(
        bundle=Path(environment.get("VIEWFOLD_BUNDLE") or DEFAULT_BUNDLE).expanduser(),
        mode=environment.get("VIEWFOLD_MODE") or None,
        device=cast(Device, environment.get("VIEWFOLD_DEVICE") or "auto"),
        workers=int(workers),
        access_log=_switch(environment, "VIEWFOLD_ACCESS_LOG"),
        modes=mode_list(environment.get("VIEWFOLD_MODES")),
        watch=_switch(environment, "VIEWFOLD_WATCH"),
        allow_load=_switch(environment, "VIEWFOLD_ALLOW_LOAD"),
        strict=_switch(environment, "VIEWFOLD_STRICT"),
    )


def _switch(environment: Mapping[str, str], name: str) -> bool:
    value = environment.get(name) or "0"
    if value not in ("0", "1"):
        raise SettingsError(f"{name} is {value!r}; it must be 0 or 1")
    return value == "1"


def bentoml_home(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder where BentoML keeps what is its own."""
    return Path(environment.get("BENTOML_HOME") or Path.home() / "bentoml")

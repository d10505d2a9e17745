"""`viewfold serve`: look at everything that could be wrong, say what is served and where, hand over to BentoML."""

import os
import runpy
import shlex
import socket
import sys
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote

from tyro.conf import Positional

from serving import repository, settings
from serving.model import ADDRESSES, default_mode, passes_of
from serving.predictor import Device, provider
from serving.repository import Fault, Seen
from serving.settings import (
    DEFAULT_BUNDLE,
    ROOT,
    Settings,
    SettingsError,
    bentoml_home,
    mode_list,
)


@dataclass(frozen=True)
class ServeConfig:
    """Serve a bundle, or a folder of bundles, over HTTP.

    What is not given is taken from the environment (VIEWFOLD_MODE, VIEWFOLD_WORKERS, ...), as `bentoml serve` does.
    """

    bundle: Positional[Path] = DEFAULT_BUNDLE
    """The folder that `viewfold export` wrote; or a folder of such folders, NAME/ or NAME/VERSION/."""
    port: int = 3000
    """The TCP port to listen on."""
    host: str = "127.0.0.1"
    """The address to listen on: this machine alone, unless told otherwise; 0.0.0.0 lets every machine in."""
    mode: str | None = None
    """The mode that answers requests that name none; the bundle's own default if not given."""
    device: Device = "auto"
    """Where to run; cuda fails where there is no usable GPU, auto takes what there is."""
    workers: int = 1
    """Processes that answer; they share the processors that there are."""
    access_log: bool = False
    """Write a line for every request to the log; it costs time."""
    modes: str | None = None
    """The modes to load, with commas between; all of them if not given."""
    watch: bool = False
    """Follow what changes in the folder: load what is new or changed, once it verifies."""
    allow_load: bool = False
    """Let clients load and unload models, by POST /v2/repository/models/NAME/load."""
    strict: bool = False
    """Refuse to start if any one of several bundles cannot be served."""


def defaults() -> ServeConfig:
    """What holds where no flag says otherwise: the environment's settings.

    Raises:
        SettingsError: a variable that is not one of those allowed.
    """
    given = settings.read()
    return ServeConfig(
        bundle=given.bundle,
        mode=given.mode,
        device=given.device,
        workers=given.workers,
        access_log=given.access_log,
        modes=None if given.modes is None else ",".join(given.modes),
        watch=given.watch,
        allow_load=given.allow_load,
        strict=given.strict,
    )


def run(config: ServeConfig) -> None:
    """Serve until interrupted; this process becomes BentoML's, so it does not return.

    Raises:
        SettingsError: a port that is taken, an address that is not one of this machine, no workers.
        RepositoryError, BundleError, ModeError, DeviceError: what is there cannot be served, as far as that shows
            without loading a graph; a graph that cannot be loaded is for the workers to say.
    """
    wanted = _settings(config)
    _check_address(config.host, config.port)
    seen = repository.check(repository.open_repository(wanted), wanted)
    print(announcement(config, seen), flush=True)
    os.environ.update(_environment(wanted, config))
    # in this process: what it has imported already BentoML needs not import again
    sys.argv = ["bentoml", "serve", "serving.service:Service", "--working-dir", str(ROOT)]
    sys.argv += ["--host", config.host, "--port", str(config.port)]
    runpy.run_module("bentoml", run_name="__main__")


def announcement(config: ServeConfig, seen: list[Seen]) -> str:
    """A few lines for the person who started it."""
    wanted = _settings(config)
    host = "localhost" if ip_address(config.host).is_unspecified else config.host
    url = f"http://[{host}]:{config.port}" if ":" in host else f"http://{host}:{config.port}"
    lines = [line for one in seen for line in _introduction(one, wanted)]
    lines.append(f"page: {url}/")
    if tried := next((one for one in seen if one.bundle), None):
        lines.append(f"try:  {_example(tried, url, named=len(seen) > 1)}")
    return "\n".join([*lines, "stop: Ctrl-C"])


def _introduction(seen: Seen, wanted: Settings) -> list[str]:
    refused = [f"{_called(seen.name, fault)}: not served: {fault.reason}" for fault in seen.faults]
    if seen.bundle is None:
        return refused
    manifest = seen.bundle.manifest
    device = provider(wanted.device).removesuffix("ExecutionProvider").lower()
    answers = (
        f"{len(manifest.classes)} classes"
        if manifest.dimensions is None
        else f"embeddings of {manifest.dimensions} numbers"
    )
    names = wanted.modes or manifest.mode_names
    passes = [f"{name} ({passes_of(manifest, name):.3g})" for name in names]
    default = default_mode(manifest, wanted)
    return [
        *refused,
        f"{seen.name}: {answers}, on {device}",
        f"modes (forward passes): {', '.join(passes)}; default {default}",
    ]


def _called(name: str, fault: Fault) -> str:
    return f"{name}, version {fault.version}" if fault.version else name


def _example(seen: Seen, url: str, *, named: bool) -> str:
    """A command that can be pasted. named: whether it has to say which model."""
    assert seen.bundle is not None
    manifest = seen.bundle.manifest
    example = next(iter(manifest.samples), None)
    picture = "image.png" if example is None else seen.bundle.folder / example
    address = f"{url}{ADDRESSES[manifest.task]}"
    asked = f"{address}?model={quote(seen.name)}" if named else address
    return shlex.join(["curl", "--data-binary", f"@{picture}", asked])


def _settings(config: ServeConfig) -> Settings:
    return Settings(
        config.bundle.absolute(),
        config.mode,
        config.device,
        config.workers,
        config.access_log,
        mode_list(config.modes),
        config.watch,
        config.allow_load,
        config.strict,
    )


def _environment(wanted: Settings, config: ServeConfig) -> dict[str, str]:
    """What BentoML and its workers are told; its home is this server's own.

    BentoML wipes the metrics in its home when a server starts, also those of a server that is running: at another
    address of this machine, or on another machine that has the same folder.
    """
    own = f"{socket.gethostname()}-{config.host}-{config.port}"
    return {
        **wanted.environment(),
        "BENTOML_HOME": str(bentoml_home() / "viewfold" / own),
        "BENTOML_DO_NOT_TRACK": os.environ.get("BENTOML_DO_NOT_TRACK", "True"),
    }


def _check_address(host: str, port: int) -> None:
    try:
        version = ip_address(host).version
    except ValueError:
        raise SettingsError(
            f"host {host!r} is not an IP address; use 127.0.0.1 or 0.0.0.0"
        ) from None
    if not 1 <= port <= 65535:
        raise SettingsError(f"port {port} does not exist; choose one from 1 to 65535")
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            reason = f"cannot listen on {host}, port {port} ({error.strerror})"
            raise SettingsError(f"{reason}; choose another with --port or --host") from None

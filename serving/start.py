"""`viewfold serve`: look at everything that could be wrong, say what is served and where, hand over to BentoML."""

import os
import socket
import sys
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from tyro.conf import Positional

from serving import model
from serving.engine import Processors
from serving.predictor import Device
from serving.settings import DEFAULT_BUNDLE, ROOT, Settings, SettingsError


@dataclass(frozen=True)
class ServeConfig:
    """Serve a bundle over HTTP."""

    bundle: Positional[Path] = DEFAULT_BUNDLE
    """The folder that `viewfold export` wrote."""
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


def run(config: ServeConfig) -> None:
    """Serve until interrupted; this process becomes BentoML's, so it does not return.

    Raises:
        SettingsError: a port that is taken, an address that is not one of this machine, no workers.
        BundleError, ModeError, DeviceError: as model.load; all found before anything is started.
    """
    settings = Settings(
        config.bundle.absolute(), config.mode, config.device, config.workers, config.access_log
    )
    _check_address(config.host, config.port)
    processors = Processors(settings.threads)
    loaded = model.load(settings, processors)
    processors.close()
    print(announcement(config, loaded), flush=True)
    command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Service"]
    command += ["--working-dir", str(ROOT), "--host", config.host, "--port", str(config.port)]
    os.execve(sys.executable, command, {**os.environ, **_environment(settings, config.port)})


def announcement(config: ServeConfig, loaded: model.Model) -> str:
    """A few lines for the person who started it."""
    about = model.describe(loaded)
    host = "localhost" if ip_address(config.host).is_unspecified else config.host
    url = f"http://[{host}]:{config.port}" if ":" in host else f"http://{host}:{config.port}"
    example = next(iter(loaded.predictor.manifest.samples), None)
    picture = "image.png" if example is None else config.bundle / example
    passes = [f"{name} ({mode['forward_passes']})" for name, mode in about["modes"].items()]
    answers = (
        f"{len(about['classes'])} classes"
        if about["dimensions"] is None
        else f"embeddings of {about['dimensions']} numbers"
    )
    return (
        f"{about['name']}: {answers}, on {about['device']}\n"
        f"modes (forward passes): {', '.join(passes)}; default {about['default_mode']}\n"
        f"page: {url}/\n"
        f"try:  curl --data-binary @{picture} {url}{model.ADDRESSES[about['task']]}\n"
        "stop: Ctrl-C"
    )


def _environment(settings: Settings, port: int) -> dict[str, str]:
    """What BentoML and its workers are told; its home is this server's own.

    BentoML wipes the metrics in its home when a server starts, also those of a server that is running.
    """
    home = Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml")
    return {
        **settings.environment(),
        "BENTOML_HOME": str(home / "viewfold" / str(port)),
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

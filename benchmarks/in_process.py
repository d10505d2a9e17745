"""The service in this process, not behind a command: so that what it does can be timed from within."""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any


def imported(folder: Path) -> tuple[Any, Any]:
    """`serving.service` with a bundle, and its ASGI application with BentoML's layers; once a process.

    BentoML and the service read the environment when they are imported.
    """
    metrics = tempfile.mkdtemp(prefix="metrics-")
    atexit.register(shutil.rmtree, metrics, ignore_errors=True)
    os.environ |= {
        "PROMETHEUS_MULTIPROC_DIR": metrics,
        "BENTOML_DO_NOT_TRACK": "True",
        "VIEWFOLD_BUNDLE": str(folder.absolute()),
    }
    from serving import service

    return service, service.Service.to_asgi()  # type: ignore[attr-defined]  # the decorator made it BentoML's

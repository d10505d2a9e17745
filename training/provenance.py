"""What decided a run's numbers: the versions of the libraries, and the commit of this code."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path


def versions() -> dict[str, str]:
    """Of what decides numbers."""
    names = ("viewfold", "torch", "timm", "numpy", "pillow", "lightning")
    found = {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
    }
    commit = _commit()
    return found if commit is None else {**found, "commit": commit}


def _commit() -> str | None:
    """The commit of the checkout that this code runs from, marked if it was changed since; None outside one."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    command = [
        "git",
        "-C",
        str(root),
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
        "--exclude=*",
    ]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None

"""What `bentoml build` puts around the service, and what BentoML keeps to itself."""

import os
import sys
import tomllib
from pathlib import Path
from typing import Any

from bentoml.exceptions import BentoMLException
from bentoml.images import Image

from serving import repository
from serving.bundle import BundleError
from serving.repository import RepositoryError
from serving.settings import ROOT, Settings


class BundledImage(Image):  # type: ignore[misc]  # BentoML's SDK is not typed
    """The environment of a Bento; building one fails where a bundle is missing or not whole."""

    def freeze(self, bento_fs: Path, *args: Any, **kwargs: Any) -> Any:
        """BentoML's own, after a look at the bundle that was copied into the Bento."""
        try:
            settings = Settings(bento_fs / "src" / "bundle", device="cpu", strict=True)
            repository.check(repository.open_repository(settings), settings)
        except (BundleError, RepositoryError) as error:
            raise BentoMLException(f"the folder bundle/ cannot go into a Bento: {error}") from None
        return super().freeze(bento_fs, *args, **kwargs)


def image() -> BundledImage | None:
    """What a Bento needs to be installed, as pyproject.toml says it; None where there is only the package."""
    project = ROOT / "pyproject.toml"
    if not project.is_file():
        return None
    dependencies = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    # Ranges, not a lock: a lock would need the network at build time, and fit one platform.
    image = BundledImage(lock_python_packages=False)
    image.python_packages(*dependencies)
    return image


def no_usage_reports() -> None:
    """Keep BentoML from reporting usage, unless the environment says otherwise.

    Its command line looks before it imports the service and remembers what it saw; that has to be forgotten.
    """
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    if remembered := sys.modules.get("bentoml._internal.utils.analytics.usage_stats"):
        remembered.do_not_track.cache_clear()

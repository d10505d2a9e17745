from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from serving.engine import Processors
from tests.bundles import write_bundle


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for reading; tests that break one write their own."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "colours")


@pytest.fixture(scope="session")
def processors() -> Iterator[Processors]:
    """What the models of this process share."""
    found = Processors(2)
    yield found
    found.close()


@pytest.fixture(scope="session")
def client(colours: Path) -> Iterator[TestClient]:
    """The service in this process; BentoML's metrics allow one for each process."""
    from serving.service import Service

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIEWFOLD_BUNDLE", str(colours))
        patch.setenv("VIEWFOLD_DEVICE", "cpu")
        with TestClient(Service.to_asgi(), raise_server_exceptions=False) as started:
            yield started

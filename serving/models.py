"""What a process has loaded, by name."""

from collections.abc import Mapping
from types import MappingProxyType

from serving.errors import RequestError, from_status
from serving.model import Model


class Models:
    """The models of a process; none until the first is put.

    A request keeps the model that it got, whatever is put later.
    """

    def __init__(self) -> None:
        self._models: Mapping[str, Model] = MappingProxyType({})

    @property
    def all(self) -> Mapping[str, Model]:
        """The models by name, in order of their names; never changed, only replaced."""
        return self._models

    def put(self, model: Model) -> None:
        """Answer with this model under its name from now on."""
        known = {**self._models, model.name: model}
        self._models = MappingProxyType(dict(sorted(known.items())))

    def remove(self, name: str) -> None:
        """Answer under this name no more."""
        left = {known: model for known, model in self._models.items() if known != name}
        self._models = MappingProxyType(left)

    def get(self, name: str | None) -> Model:
        """The model of that name; without one, the only model.

        Raises:
            RequestError: nothing is loaded, there is no such model, or there are several to choose from.
        """
        models = self._models
        if not models:
            raise from_status(503)
        if name is None and len(models) == 1:
            return next(iter(models.values()))
        if name is None:
            raise RequestError(400, "which_model", f"model must be one of {[*models]}")
        if name not in models:
            known = f"choose from {[*models]}"
            raise RequestError(404, "unknown_model", f"there is no model {name[:50]!r}; {known}")
        return models[name]

"""What a process has loaded."""

from serving.errors import from_status
from serving.model import Model


class Models:
    """The models of a process; none until the first is put."""

    def __init__(self) -> None:
        self._model: Model | None = None

    def put(self, model: Model) -> None:
        """Answer with this model from now on."""
        self._model = model

    def get(self) -> Model:
        """The model that answers.

        Raises:
            RequestError: nothing is loaded yet.
        """
        if self._model is None:
            raise from_status(503)
        return self._model

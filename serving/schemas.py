"""What the server takes and answers, as pydantic models: for the OpenAPI page and BentoML's client.

The hot path serialises plain dictionaries; tests hold them against these models.
"""

from pathlib import Path
from typing import Any

from bentoml import IODescriptor
from pydantic import BaseModel, Field
from starlette.requests import Request

from serving import form
from serving.errors import REQUEST_ID, RequestError


class Label(BaseModel):
    """A class and how probable it is."""

    label: str
    probability: float = Field(ge=0, le=1)


class Vote(BaseModel):
    """What one transformed copy of an image says by itself."""

    transformation: str
    label: str = Field(description="the class that the copy finds most probable")
    probability: float = Field(ge=0, le=1)
    png: str | None = Field(default=None, description="the copy, base64; with explain=copies")


class Found(BaseModel):
    """What an image shows."""

    label: str = Field(description="the most probable class")
    index: int = Field(ge=0, description="its place in the list of classes")
    confidence: float = Field(ge=0, le=1, description="its probability")
    top: list[Label] = Field(description="the top_k most probable classes, best first")
    forward_passes: int = Field(ge=1, description="how often the network ran for this answer")
    votes: list[Vote] | None = Field(
        default=None, description="what each transformed copy says; with explain=true"
    )


class Prediction(Found):
    """What an image shows that is alone in its request."""

    model: str = Field(description="its name")
    version: str = Field(description="of the model that answered; 1 where it has no versions")
    mode: str = Field(description="the mode that answered")
    milliseconds: float = Field(ge=0, description="decoding and inference, without the network")


class ItemError(BaseModel):
    """What is wrong with one image of many."""

    code: str
    message: str


class FoundItem(Found):
    """What one image of many shows."""

    name: str | None = Field(description="what the client calls it: in a zip or a form")


class FailedItem(BaseModel):
    """One image of many that cannot be used."""

    name: str | None
    error: ItemError


class Predictions(BaseModel):
    """What many images show, in their order; an unusable one spoils nothing."""

    model: str = Field(description="its name")
    version: str = Field(description="of the model that answered; 1 where it has no versions")
    mode: str = Field(description="the mode that answered")
    predictions: list[FoundItem | FailedItem]
    milliseconds: float = Field(ge=0, description="decoding and inference, without the network")


class UnusableImage(ItemError):
    """Which image of a request has no embedding, and why."""

    place: int = Field(ge=0, description="among the images of the request, from 0 on")
    name: str | None = Field(description="what the client calls it: in a zip or a form")


class Embeddings(BaseModel):
    """The vectors of one or several images."""

    model: str = Field(description="its name")
    version: str = Field(description="of the model that answered; 1 where it has no versions")
    mode: str = Field(description="the mode that answered")
    dimensions: int = Field(ge=1, description="how many numbers a vector has")
    normalized: bool = Field(description="whether every vector has length 1")
    embeddings: list[list[float] | None] = Field(
        description="a vector for each image, in their order; null where it cannot be used"
    )
    errors: list[UnusableImage] = Field(description="the images that cannot be used")
    milliseconds: float = Field(ge=0, description="decoding and inference, without the network")


class ModeInfo(BaseModel):
    """One way of answering."""

    forward_passes: float = Field(description="of an image; of auto their mean")
    precision: str
    temperature: float | None = Field(description="null of auto, whose two answers have their own")
    threshold: float | None = Field(
        description="of auto: a confidence at or below it leaves an image in doubt"
    )
    metrics: dict[str, float] = Field(description="what the mode was measured to be worth")


class ModelInfo(BaseModel):
    """A model that is loaded."""

    name: str
    version: str = Field(description="its folder's among the versions of a name; else 1")
    task: str
    classes: list[str] = Field(description="none of an encoder")
    dimensions: int | None = Field(
        default=None, description="how many numbers an embedding has; null of a classifier"
    )
    image: dict[str, Any] = Field(description="the size and the resize rule of what the model sees")
    transformations: list[str]
    modes: dict[str, ModeInfo]
    default_mode: str = Field(description="the mode that answers requests that name none")
    device: str = Field(description="cpu or cuda")
    provider: str = Field(description="the execution provider of onnxruntime")
    parity: dict[str, Any] = Field(description="how far the graphs are from what was trained")


class Models(BaseModel):
    """Everything that is loaded."""

    models: list[ModelInfo]


class ErrorDetail(BaseModel):
    """What was wrong and what to do."""

    code: str
    message: str
    request_id: str


class ErrorAnswer(BaseModel):
    """The one shape of every error."""

    error: ErrorDetail


class AsReceived(IODescriptor):  # type: ignore[misc]  # BentoML's SDK is not typed
    """What an address takes, as BentoML describes it to its clients; `form` does the reading.

    BentoML's own reading trusts the declared content type and fetches URLs that it finds in file fields.
    """

    @classmethod
    async def from_http_request(cls, request: Request, serde: object) -> Any:
        """The request as it came, or why it cannot be read: BentoML would log what is raised here."""
        try:
            return await form.receive(request.scope, request.receive)
        except RequestError as error:
            return form.Refused(error, request.scope[REQUEST_ID])

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The schema for BentoML's client, which is to see fields and not one positional argument."""
        schema: dict[str, Any] = super().model_json_schema(*args, **kwargs)
        schema.pop("root_input", None)
        return schema


class PredictInput(AsReceived):
    """What POST /predict takes."""

    image: Path = Field(description="the encoded image: JPEG, PNG, WebP, ...")
    model: str | None = Field(default=None, description="which of several models; else null")
    mode: str | None = Field(
        default=None, description="how to answer; the server's default if null"
    )
    top_k: int | None = Field(default=None, description="how many classes to name; 5 if null")
    explain: str | None = Field(
        default=None, description="true for what each copy votes, copies for their pictures too"
    )


class EmbedInput(AsReceived):
    """What POST /embed takes."""

    image: list[Path] = Field(description="the encoded images: JPEG, PNG, WebP, ...")
    model: str | None = Field(default=None, description="which of several models; else null")
    mode: str | None = Field(
        default=None, description="how to answer; the server's default if null"
    )
    normalize: bool | None = Field(
        default=None, description="whether to scale every vector to length 1; not if null"
    )


# One positional argument, what from_http_request returns, instead of one for each field above.
PredictInput.__root_input__ = True
EmbedInput.__root_input__ = True

"""The usual BentoML service, a method with a Pillow argument.

bentoml serve benchmarks.contenders.usual_bentoml:Usual
"""

import os

import bentoml
import numpy as np
import onnxruntime as ort
from PIL import Image

SIDE = int(os.environ.get("CONTENDER_SIDE", "32"))


@bentoml.service(workers=1, threads=os.cpu_count())
class Usual:
    """One image a call."""

    def __init__(self) -> None:
        self.session = ort.InferenceSession(os.environ["CONTENDER_GRAPH"])

    @bentoml.api
    def predict(self, image: Image.Image) -> dict:
        """The class of an image."""
        pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE)))[None]
        (probabilities,) = self.session.run(["probabilities"], {"images": pixels})
        index = int(probabilities[0].argmax())
        return {"index": index, "confidence": float(probabilities[0][index])}

"""BentoML's adaptive batching. bentoml serve benchmarks.contenders.batching_bentoml:Batching."""

import os

import bentoml
import numpy as np
import onnxruntime as ort
from PIL import Image

SIDE = int(os.environ.get("CONTENDER_SIDE", "32"))


@bentoml.service(workers=1, threads=os.cpu_count())
class Batching:
    """Several images a call, gathered by BentoML."""

    def __init__(self) -> None:
        self.session = ort.InferenceSession(os.environ["CONTENDER_GRAPH"])

    @bentoml.api(batchable=True, max_batch_size=32, max_latency_ms=100)
    def predict(self, images: list[Image.Image]) -> list[dict]:
        """The class of each image."""
        pixels = np.stack([np.asarray(i.convert("RGB").resize((SIDE, SIDE))) for i in images])
        (probabilities,) = self.session.run(["probabilities"], {"images": pixels})
        return [{"index": int(p.argmax()), "confidence": float(p.max())} for p in probabilities]

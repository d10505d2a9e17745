"""LitServe, with batching: python -m benchmarks.contenders.lit PORT."""

import base64
import io
import os
import sys

import litserve
import numpy as np
import onnxruntime as ort
from PIL import Image

SIDE = int(os.environ.get("CONTENDER_SIDE", "32"))


class Classifier(litserve.LitAPI):
    """Several images a call, gathered by LitServe."""

    def setup(self, device: str) -> None:
        """Load the graph."""
        self.session = ort.InferenceSession(os.environ["CONTENDER_GRAPH"])

    def decode_request(self, request: dict) -> np.ndarray:
        """The pixels of a base64 image."""
        image = Image.open(io.BytesIO(base64.b64decode(request["image"])))
        return np.asarray(image.convert("RGB").resize((SIDE, SIDE)))

    def batch(self, inputs: list[np.ndarray]) -> np.ndarray:
        """One array of all pixels."""
        return np.stack(inputs)

    def predict(self, batch: np.ndarray) -> np.ndarray:
        """The probabilities of a batch."""
        return self.session.run(["probabilities"], {"images": batch})[0]

    def unbatch(self, output: np.ndarray) -> list[np.ndarray]:
        """A row an image."""
        return list(output)

    def encode_response(self, output: np.ndarray) -> dict:
        """The class of an image."""
        return {"index": int(output.argmax()), "confidence": float(output.max())}


if __name__ == "__main__":
    api = Classifier(max_batch_size=32, batch_timeout=0.005)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[1]), generate_client_file=False, log_level="warning")

"""FastAPI and onnxruntime: uvicorn benchmarks.contenders.fast:app."""

import io
import os

import numpy as np
import onnxruntime as ort
from fastapi import FastAPI, Request
from PIL import Image
from starlette.concurrency import run_in_threadpool

SIDE = int(os.environ.get("CONTENDER_SIDE", "32"))
session = ort.InferenceSession(os.environ["CONTENDER_GRAPH"])
app = FastAPI()


def classify(body: bytes) -> dict:
    """The class of an image."""
    image = Image.open(io.BytesIO(body))
    pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE)))[None]
    (probabilities,) = session.run(["probabilities"], {"images": pixels})
    index = int(probabilities[0].argmax())
    return {"index": index, "confidence": float(probabilities[0][index])}


@app.post("/predict")
async def predict(request: Request) -> dict:
    """One image a call, in a thread."""
    return await run_in_threadpool(classify, await request.body())

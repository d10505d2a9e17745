"""Whether a graph says what torch says: names, axes, values at several batch sizes, and every test image.

Each check adds to the findings what is wrong, in words, so that all failures can be reported together.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.graphs import AllCopies, OnePass, Signature
from serving.images import ImageSpec, Pixels, decode
from serving.predictor import Predictor
from training.splits import Split

BATCHES = (1, 2, 7)  # one, the size it was traced at, an odd one
TOLERANCE = 1e-4  # of any probability, onnxruntime against torch, both fp32
AGREEMENT = 0.999  # of top-1 over the test images; near-ties may fall either way
_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


@dataclass
class Findings:
    """What verification measured, and what was wrong. agreement: share of images with the same top-1, worst mode."""

    max_abs_diff: float = 0.0
    agreement: float = 1.0
    failures: list[str] = field(default_factory=list)


def check_graph(
    file: Path, graph: OnePass | AllCopies, signature: Signature, images: Pixels, findings: Findings
) -> None:
    """Compare one graph with its module. images: at least max(BATCHES) real ones, (n, H, W, 3) uint8."""
    try:
        session = ort.InferenceSession(file, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises a dozen unrelated types
        findings.failures.append(f"{file.name}: onnxruntime cannot load it ({error})")
        return
    wrong = _check_signature(session, signature)
    findings.failures += [f"{file.name}: {problem}" for problem in wrong]
    if wrong:
        return
    for batch in BATCHES:
        _check_values(file.name, session, graph, signature, images[:batch], findings)


def check_agreement(
    mode: str, served: NDArray[np.float32], expected: Tensor, findings: Findings, *, what: str
) -> None:
    """Compare the served answers of a whole split with torch's. Both (n, N) probabilities."""
    reference = expected.numpy()
    difference = float(np.abs(served - reference).max())
    agreement = float((served.argmax(1) == reference.argmax(1)).mean())
    findings.max_abs_diff = max(findings.max_abs_diff, difference)
    findings.agreement = min(findings.agreement, agreement)
    if not difference <= TOLERANCE:
        findings.failures.append(
            f"{mode}: probabilities differ from torch's by up to {difference:.2e} on {what}, tolerance {TOLERANCE:.0e}"
        )
    if not agreement >= AGREEMENT:
        findings.failures.append(
            f"{mode}: top-1 agrees with torch on {100 * agreement:.2f} % of {len(served)} ({what}), "
            f"needed {100 * AGREEMENT:.1f} %"
        )


def serve_split(
    predictor: Predictor, split: Split, modes: tuple[str, ...], at_once: int
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """What the served bundle answers to every file of a split, from its bytes, at_once files at a time."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(split), at_once):
            places = range(start, min(start + at_once, len(split)))
            pictures = np.stack(
                list(pool.map(lambda place: _as_served(split, place, predictor.spec), places))
            )
            yield {mode: predictor.predict(pictures, mode) for mode in modes}


def _as_served(split: Split, place: int, spec: ImageSpec) -> Pixels:
    return decode(split.encoded(place), spec)


def _check_signature(session: ort.InferenceSession, signature: Signature) -> list[str]:
    problems = []
    for side, declared, found in (
        ("input", signature.inputs, session.get_inputs()),
        ("output", signature.outputs, session.get_outputs()),
    ):
        expected_names, found_names = (
            [tensor.name for tensor in declared],
            [value.name for value in found],
        )
        if expected_names != found_names:
            problems.append(f"its {side}s are {found_names}, expected {expected_names}")
            continue
        for tensor, value in zip(declared, found, strict=True):
            # onnxruntime gives a free axis as a name or None
            shape = tuple(size if isinstance(size, int) else None for size in value.shape)
            if shape != tensor.shape or _DTYPES.get(value.type, value.type) != tensor.dtype:
                problems.append(
                    f"{side} {tensor.name} is {value.type} {value.shape}, expected {tensor.dtype} {tensor.shape} "
                    "with None for the free batch axis"
                )
    return problems


@torch.inference_mode()
def _check_values(
    file: str,
    session: ort.InferenceSession,
    graph: OnePass | AllCopies,
    signature: Signature,
    images: Pixels,
    findings: Findings,
) -> None:
    expected = graph(torch.from_numpy(images))
    expected = expected if isinstance(expected, tuple) else (expected,)
    found = session.run(None, {signature.inputs[0].name: images})
    for tensor, torch_value, onnx_value in zip(signature.outputs, expected, found, strict=True):
        reference = torch_value.numpy()
        if reference.shape != onnx_value.shape:
            findings.failures.append(
                f"{file}: {tensor.name} is {onnx_value.shape} at batch {len(images)}, expected {reference.shape}"
            )
            continue
        difference = float(
            np.abs(onnx_value.astype(np.float64) - reference.astype(np.float64)).max()
        )
        findings.max_abs_diff = max(findings.max_abs_diff, difference)
        if not difference <= TOLERANCE:
            findings.failures.append(
                f"{file}: {tensor.name} differs from torch by up to {difference:.2e} at batch {len(images)}, "
                f"tolerance {TOLERANCE:.0e}"
            )

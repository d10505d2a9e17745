"""Whether a graph says what torch says: names, axes, values at several batch sizes, and every test image.

Each check adds to the findings what is wrong, in words, so that all failures can be reported together.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from export.errors import VerificationError
from export.graphs import Signature
from serving.images import ImageSpec, Pixels, decode
from serving.manifest import EMBEDDINGS, IDENTITY_LOGITS
from serving.predictor import Predictor
from training.evaluate import images_at_once
from training.progress import Progress
from training.splits import Split

BATCHES = (1, 2, 7)  # one, the size it was traced at, an odd one
TOLERANCE = 1e-4  # of any probability, or of an embedding as a share of the largest; onnxruntime against torch, fp32
AGREEMENT = 0.999  # of top-1 over the test images; near-ties may fall either way
UNSCALED = (
    IDENTITY_LOGITS,
    EMBEDDINGS,
)  # outputs whose difference counts as a share of the largest value
LEAST_COSINE = 0.9999  # of an image's embeddings by both; neighbours then keep their places
_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


@dataclass
class Findings:
    """What verification measured, and what was wrong.

    max_abs_diff: of probabilities. max_relative_diff: as a share of the largest value, of outputs that have no scale of
    their own, and max_unscaled_diff the same as it is. agreement: share of images with the same top-1, worst mode.
    least_cosine: of an image's two embeddings.
    """

    max_abs_diff: float = 0.0
    max_relative_diff: float = 0.0
    max_unscaled_diff: float = 0.0
    agreement: float = 1.0
    least_cosine: float = 1.0
    failures: list[str] = field(default_factory=list)

    def raise_failures(self) -> None:
        """Raise VerificationError with every failure in its message, if there is one."""
        if self.failures:
            lines = "\n".join(f"  {failure}" for failure in self.failures)
            raise VerificationError(
                f"the graphs do not say what torch says; nothing was exported:\n{lines}"
            )


def check_graph(
    file: Path,
    graph: nn.Module,
    signature: Signature,
    inputs: Sequence[NDArray[Any]],
    findings: Findings,
) -> None:
    """Compare one graph with its module. inputs: as the signature names them, of at least max(BATCHES) real images."""
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
        some = [values[:batch] for values in inputs]
        _check_values(file.name, session, graph, signature, some, findings)


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


def check_embeddings(
    mode: str, served: NDArray[np.float32], expected: Tensor, findings: Findings, *, what: str
) -> None:
    """Compare the served embeddings of a whole split with torch's. Both (n, D)."""
    reference = expected.numpy()
    share = _difference(served, reference, findings, relative=True)
    if not share <= TOLERANCE:
        findings.failures.append(
            f"{mode}: embeddings differ from torch's by up to {share:.2e} of the largest value on {what}, "
            f"tolerance {TOLERANCE:.0e}"
        )
    cosine = float(cosines(served, reference).min())
    findings.least_cosine = min(findings.least_cosine, cosine)
    if not cosine >= LEAST_COSINE:
        findings.failures.append(
            f"{mode}: an image's embedding has the cosine {cosine:.6f} with torch's on {what}, needed {LEAST_COSINE}"
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


def serve(
    predictor: Predictor, split: Split, modes: tuple[str, ...], progress: Progress
) -> dict[str, Tensor]:
    """What a bundle answers to every file of a split, through the code that serves: {mode: (n, N or D) float32}."""
    parts: dict[str, list[Tensor]] = {mode: [] for mode in modes}
    batch_size = images_at_once(predictor.spec, max(1, len(predictor.manifest.transformations)))
    chunks = serve_split(predictor, split, modes, batch_size)
    for answers in progress.track(chunks, "onnxruntime", -(-len(split) // batch_size)):
        for mode, answer in answers.items():
            parts[mode].append(torch.from_numpy(answer))
    return {mode: torch.cat(answers) for mode, answers in parts.items()}


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
    graph: nn.Module,
    signature: Signature,
    inputs: Sequence[NDArray[Any]],
    findings: Findings,
) -> None:
    batch = len(inputs[0])
    expected = graph(*map(torch.from_numpy, inputs))
    expected = expected if isinstance(expected, tuple) else (expected,)
    names = [tensor.name for tensor in signature.inputs]
    found = session.run(None, dict(zip(names, inputs, strict=True)))
    for tensor, torch_value, onnx_value in zip(signature.outputs, expected, found, strict=True):
        reference = torch_value.numpy()
        if reference.shape != onnx_value.shape:
            findings.failures.append(
                f"{file}: {tensor.name} is {onnx_value.shape} at batch {batch}, expected {reference.shape}"
            )
            continue
        relative = tensor.name in UNSCALED
        difference = _difference(onnx_value, reference, findings, relative=relative)
        if not difference <= TOLERANCE:
            share = " of the largest value" if relative else ""
            findings.failures.append(
                f"{file}: {tensor.name} differs from torch by up to {difference:.2e}{share} at batch {batch}, "
                f"tolerance {TOLERANCE:.0e}"
            )


def _difference(
    found: NDArray[Any], reference: NDArray[Any], findings: Findings, *, relative: bool
) -> float:
    """The largest difference, as a share of the largest value if it is relative; noted in the findings."""
    reference = reference.astype(np.float64)
    difference = float(np.abs(found.astype(np.float64) - reference).max())
    if not relative:
        findings.max_abs_diff = max(findings.max_abs_diff, difference)
        return difference
    findings.max_unscaled_diff = max(findings.max_unscaled_diff, difference)
    share = difference / (float(np.abs(reference).max()) or 1.0)  # of nothing but zeros: as it is
    findings.max_relative_diff = max(findings.max_relative_diff, share)
    return share


def cosines(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.float64]:
    """The cosine of each two rows; rows that are zero in both are the same. Both (n, D). Returns (n,)."""
    first, second = first.astype(np.float64), second.astype(np.float64)
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)  # (n,)
    dots = (first * second).sum(1)  # (n,)
    same = ~first.any(1) & ~second.any(1)
    found: NDArray[np.float64] = np.where(same, 1.0, dots / np.where(lengths > 0, lengths, 1.0))
    return found

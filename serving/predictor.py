"""A bundle's graphs in onnxruntime sessions: uint8 pictures in, probabilities or embeddings out. Knows no HTTP.

DeviceError    CUDA was asked for and the session would not really run on it
ModeError      a mode the bundle does not have
"""

import ctypes
import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from serving.bundle import Bundle, BundleError
from serving.images import ImageSpec, Pixels
from serving.limits import available_cpus
from serving.manifest import ANSWERS, AUTO_REST, IDENTITY_LOGITS, INPUT, Manifest, Mode, Tensor
from serving.modes import Answered, asked, graphs_of

Device = Literal["auto", "cpu", "cuda"]
Answers = NDArray[np.float32]

_log = logging.getLogger(__name__)

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16"}
_SMALL_BYTES = 64 * 1024**2  # of a graph and its weights: so much may be there twice
_MOST_RUNS = 4  # that share all threads: more than one fill the gaps between each other's layers
_ERRORS_ONLY = (
    3  # onnxruntime's log severity; what is a warning there is either checked here or harmless
)


class DeviceError(Exception):
    """The device that was asked for is not there."""


class ModeError(Exception):
    """The bundle has no such mode."""


class Predictor:
    """Answers for one bundle. The graphs are loaded when it is made; calls from several threads are safe.

    bundle: a checked bundle.
    device: "cuda" fails where CUDA does not really run; "auto" takes it where it does, and says so where a GPU is
        left unused.
    modes: which modes to load, with the graphs that they need; None for all of them.
    threads: per session; None for as many as the process has processors.
    concurrent: whether several threads will call at a time. A small network then has a second session with one thread
        a call: sharing the layers of a call among all processors is best for one call alone, and the worst for many.

    Raises:
        DeviceError: "cuda" was asked for and is not to be had.
        ModeError: a mode that the bundle lacks.
        BundleError: a graph that onnxruntime cannot load, or that contradicts the manifest.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: Device = "auto",
        modes: Iterable[str] | None = None,
        threads: int | None = None,
        concurrent: bool = False,
    ) -> None:
        self.manifest = bundle.manifest
        self.spec = _image_spec(bundle)
        _check_meaning(self.manifest, self.spec)
        self.provider = provider(device)
        self._may_fall_back = device == "auto"
        names = self.manifest.mode_names if modes is None else [self.mode_name(m) for m in modes]
        self.modes = tuple(dict.fromkeys(names))
        graphs = dict.fromkeys(g for name in self.modes for g in graphs_of(self.manifest, name))
        most = threads or available_cpus()
        self._sessions = {graph: self._session(bundle, graph, most) for graph in graphs}
        self._crowded = dict(self._sessions)  # for calls beside others
        self._runs = dict.fromkeys(graphs, 1 if self.provider == _CUDA else min(most, _MOST_RUNS))
        if concurrent and most > 1 and self.provider == _CPU:
            small = [graph for graph in graphs if _bytes(bundle, graph) <= _SMALL_BYTES]
            self._crowded |= {graph: self._session(bundle, graph, 1) for graph in small}
            self._runs |= dict.fromkeys(small, most)

    def mode_name(self, name: str | None) -> str:
        """The mode to answer in: the name itself if the bundle has it, its default mode for None.

        Raises:
            ModeError: the bundle has no mode of that name.
        """
        return mode_name(self.manifest, name)

    def graph(self, name: str) -> Mode:
        """What the manifest says of a graph."""
        return self.manifest.graphs[name]

    def runs_at_once(self, graph: str) -> int:
        """How many calls of a graph at a time keep the processors busy.

        One a processor where each call has a thread to itself, a few where they share all threads, one on a GPU.
        """
        return self._runs[graph]

    def run(
        self,
        graph: str,
        feeds: Mapping[str, NDArray[Any]],
        outputs: Sequence[str],
        *,
        alone: bool = True,
    ) -> list[NDArray[Any]]:
        """Outputs of a graph for the inputs that it takes, by name; the first axis is the batch.

        alone: whether no other call is going on.
        """
        session = (self._sessions if alone else self._crowded)[graph]
        if self.provider == _CUDA:
            return _run_bound(session, feeds, outputs)
        return list(session.run(list(outputs), dict(feeds)))

    def predict(self, images: Pixels, mode: str) -> Answers:
        """The classes' probabilities in one mode, or the embeddings if that is the bundle's task.

        images: (B, H, W, 3) uint8 RGB of the bundle's image size. Returns (B, N) float32, each row sums to 1; or
        (B, D) float32.
        """
        return self.answer(images, mode).values

    def answer(self, images: Pixels, mode: str) -> Answered:
        """The same as `predict`, and how many passes each image took, which differs from image to image in `auto`."""
        asking = asked(self.manifest, images, mode)
        try:
            question = next(asking)
            while True:
                question = asking.send(self.run(*question))
        except StopIteration as done:
            answered: Answered = done.value
            return answered

    def warm_up(self) -> None:
        """Run every session once, so that the first request does not pay for onnxruntime's set-up."""
        for name in self._sessions:
            graph = self.manifest.graphs[name]
            feeds = {
                tensor.name: np.zeros([size or 1 for size in tensor.shape], dtype=tensor.dtype)
                for tensor in graph.inputs
            }
            for alone in (True, False):
                self.run(name, feeds, [tensor.name for tensor in graph.outputs], alone=alone)

    def _session(self, bundle: Bundle, name: str, threads: int) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _ERRORS_ONLY
        # threads spin until the next layer, which is quick; when nothing runs they leave the processor to others
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry("session.use_env_allocators", "1")
        _share_arena()
        path = bundle.graph(name)
        try:
            session = ort.InferenceSession(path, options, providers=[self.provider])
        except Exception as error:  # onnxruntime raises a dozen unrelated types
            raise BundleError(f"{path.name}: onnxruntime cannot load it ({error})") from error
        _check_signature(path.name, session, self.manifest.graphs[name])
        if self.provider in session.get_providers():
            return session
        if not self._may_fall_back:
            raise DeviceError(
                f"CUDA was asked for, but onnxruntime runs {path.name} on {session.get_providers()[0]}"
            )
        _log.warning(
            "there is a GPU, but onnxruntime cannot use it (are cuDNN and CUDA installed?): running on the CPU"
        )
        self.provider = _CPU
        return session


def _run_bound(
    session: ort.InferenceSession, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]
) -> list[NDArray[Any]]:
    """Run a session on a device of its own: inputs go there before the run, outputs come back once, when it is over."""
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, np.ascontiguousarray(array))
    binding.synchronize_inputs()
    for name in outputs:
        binding.bind_output(name, "cpu")
    session.run_with_iobinding(binding)
    return list(binding.copy_outputs_to_cpu())


@functools.cache
def _share_arena() -> None:
    """Let all sessions of this process share an arena: each would keep the memory of its largest batch for itself."""
    place = ort.OrtMemoryInfo(
        "Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT
    )
    ort.create_and_register_allocator(place, None)


def _bytes(bundle: Bundle, mode: str) -> int:
    """The size of a graph with the weights that it shares with others."""
    shared = sum((bundle.folder / file).stat().st_size for file in bundle.manifest.weights)
    return bundle.graph(mode).stat().st_size + shared


def _image_spec(bundle: Bundle) -> ImageSpec:
    try:
        return ImageSpec(**bundle.manifest.image)
    except (TypeError, ValueError) as error:
        raise BundleError(
            f"the manifest's image section is malformed ({error}); export the bundle again"
        ) from None


def _check_signature(file: str, session: ort.InferenceSession, mode: Mode) -> None:
    for side, declared, found in (
        ("inputs", mode.inputs, session.get_inputs()),
        ("outputs", mode.outputs, session.get_outputs()),
    ):
        if len(declared) != len(found) or not all(map(_agree, declared, found)):
            raise BundleError(
                f"{file}: its {side} are not those that the manifest names; export the bundle again"
            )


def _agree(declared: Tensor, found: ort.NodeArg) -> bool:
    """Whether a graph has the tensor that the manifest names; a size that the graph leaves open fits any."""
    if (declared.name, declared.dtype) != (found.name, _DTYPES.get(found.type)):
        return False
    if len(declared.shape) != len(found.shape):
        return False
    pairs = zip(declared.shape, found.shape, strict=True)
    return all(not isinstance(got, int) or got == expected for expected, got in pairs)


def _check_meaning(manifest: Manifest, spec: ImageSpec) -> None:
    """Raise BundleError where a mode does not take the manifest's pictures or does not answer as its task asks."""
    takes = (Tensor(INPUT, "uint8", (None, spec.height, spec.width, 3)),)
    size = len(manifest.classes) if manifest.dimensions is None else manifest.dimensions
    answers = Tensor(ANSWERS[manifest.task], "float32", (None, size))
    meant = "probabilities of its classes" if manifest.classes else f"embeddings of {size} numbers"
    for name, graph in manifest.graphs.items():
        more = (Tensor(IDENTITY_LOGITS, "float32", (None, size)),) if name == AUTO_REST else ()
        if graph.inputs != (*takes, *more) or answers not in graph.outputs:
            what = "the rest of auto" if name == AUTO_REST else f"mode {name!r}"
            raise BundleError(
                f"{what} does not turn the manifest's images into {meant}; export the bundle again"
            )


def mode_name(manifest: Manifest, name: str | None) -> str:
    """The mode that a name means: itself if the manifest has it, the default mode for None.

    Raises:
        ModeError: the manifest has no mode of that name.
    """
    if name is None:
        return manifest.default_mode
    if name not in manifest.mode_names:
        raise ModeError(f"unknown mode {name!r}; this bundle has {sorted(manifest.mode_names)}")
    return name


def unit(vectors: Answers) -> Answers:
    """The vectors scaled to length 1, so that their dot products are cosines; zeros stay zeros. (n, D) float32."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)  # (n, 1)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def provider(device: Device) -> str:
    """The execution provider to ask onnxruntime for.

    Raises:
        DeviceError: "cuda" was asked for and there is no usable GPU, or no onnxruntime for it.
    """
    if device == "cpu":
        return _CPU
    missing = _missing_cuda()
    if missing and device == "auto":
        return _CPU
    if missing:
        raise DeviceError(
            f"CUDA was asked for, but {missing}; use --device cpu, or auto to take what there is"
        )
    ort.preload_dlls()
    return _CUDA


def _missing_cuda() -> str | None:
    if _CUDA not in ort.get_available_providers():
        return "this onnxruntime has no CUDA provider (install onnxruntime-gpu)"
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "there is no NVIDIA driver on this machine"
    if driver.cuInit(0) != 0:
        return "the NVIDIA driver finds no usable GPU"
    return None

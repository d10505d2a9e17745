"""Where training runs and in which numbers. What was asked for and is not there is an error, never a fall-back."""

import logging
import os
import platform
import shutil
from pathlib import Path
from typing import Literal

import torch

from training.config import Device, Precision, TrainConfig
from training.errors import ConfigError

FEWEST_STEPS = 2000  # that win back the minute of compiling


def pick_device(name: Device) -> torch.device:
    """The device: the one that was asked for, or for "auto" a GPU where there is one.

    Raises:
        ConfigError: CUDA was asked for where there is none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            "--device cuda, but torch finds no usable CUDA device here; use --device cpu, or auto"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def pick_precision(name: Precision, device: torch.device) -> Literal["32-true", "bf16-mixed"]:
    """Lightning Fabric's name of the precision; "auto" is bf16 where the hardware multiplies in it."""
    wanted = name == "bf16" or (name == "auto" and _computes_bf16(device))
    return "bf16-mixed" if wanted else "32-true"


def pick_compile(config: TrainConfig, steps: int) -> bool:
    """Whether the training pass is compiled; steps: of the whole run.

    Raises:
        ConfigError: it was asked for where there is no compiler.
    """
    if config.compile == "on" and not has_compiler():
        raise ConfigError(
            "--compile on needs a C++ compiler (g++ or clang++), and none is installed here"
        )
    if config.compile != "auto":
        return config.compile == "on"
    own = not config.backbone.startswith("timm/")
    pays = own and (config.devices or 1) == 1 and steps >= FEWEST_STEPS
    return pays and has_compiler()


def has_compiler() -> bool:
    """Whether there is what torch.compile writes its kernels for; Triton, for CUDA, needs one as well."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))


def quickest_kernels(device: torch.device) -> None:
    """On CUDA, have cuDNN try its kernels at every new shape and keep the quickest: a run's batches have one shape.

    For the whole process. Not for pretraining: its blur sees another number of pictures at every step. Which kernel
    wins may differ between two processes, and with it the order of sums.
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True


def describe(device: torch.device, count: int = 1) -> str:
    """The hardware in words, for logs and results. count: of the devices, or of the processes on a CPU."""
    if count > 1:
        return f"{count} x {describe(device)}"
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name()}, {torch.get_num_threads()} threads ({torch.backends.cpu.get_cpu_capability()})"


def quiet_fabric() -> None:
    """Lightning says on stderr in which precision it computes; the loop says it beside the device."""
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(f"{name}.utilities.rank_zero").setLevel(logging.WARNING)


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if not hasattr(
        torch.cpu, "get_capabilities"
    ):  # newer than the oldest torch that viewfold takes
        return False
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))

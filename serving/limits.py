"""What a server allows itself and others: the size of requests and batches, processor threads."""

import math
import os
from pathlib import Path

from serving.images import ImageSpec

MAX_REQUEST_BYTES = 20 * 1024 * 1024  # one picture straight from a camera is rarely above 15 MB
MAX_DISCARDED_BYTES = 4 * MAX_REQUEST_BYTES  # of a refused request: read, so that its client reads
MAX_DISCARD_S = 10.0  # that this may take
MAX_SILENCE_S = 1.0  # without a byte of it
MAX_IMAGES = 256  # in one request
MAX_JSON_VALUES = (
    300_000  # of an output tensor as JSON: so many take a quarter of a second to write
)
# Of a tensor that comes as JSON: json holds all threads until it has read all of it, for half a second at the most.
MAX_JSON_COMMAS, MAX_JSON_BRACKETS = 3_000_000, 300_000
MAX_COMMAND_BYTES = 64 * 1024  # of a request that loads, unloads or lists models
LARGE_JSON_BYTES = 256 * 1024  # beyond which base64 is not read on the event loop
MAX_UNZIPPED_BYTES = (
    4 * MAX_REQUEST_BYTES
)  # of the images in a request's zips: a few kilobytes may hold gigabytes
MAX_COPIES_BYTES = 32 * 1024**2  # of the pixels of copies that an answer shows
MAX_ENCODED_BYTES = 256 * 1024**2  # of files that wait to be decoded, of all requests together
MAX_WAITING_BYTES = 256 * 1024**2  # of pixels that wait for a network, of all requests together
MAX_REQUEST_PIXELS = 200_000_000  # of its images together: a few kilobytes may hold 50 million

# that go through a network at a time: the first layer of a ResNet-18 says 64 bytes a pixel, so 134 MB
_BATCH_PIXELS = 2**21
_BATCH_IMAGES = 64

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = Path("/sys/fs/cgroup/cpu")


def available_cpus() -> int:
    """The processors this process may use: the smaller of its affinity and its container's quota, at least 1.

    A container limited to 2 CPUs on a 64-core host sees 64 of them; threads sized by the host then fight
    each other (onnxruntime#29510), so the cgroup's quota (v2 cpu.max, v1 cfs_quota_us) is read as well.
    """
    visible = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quota = _cgroup_quota()
    return max(1, min(visible, math.ceil(quota))) if quota else visible


def images_at_once(spec: ImageSpec) -> int:
    """How many images go through a network at a time, so that they fit into memory whatever their size."""
    return max(1, min(_BATCH_IMAGES, _BATCH_PIXELS // (spec.height * spec.width)))


def most_images(spec: ImageSpec) -> int:
    """How many images one request may hold, so that their pixels may wait together: 1 to MAX_IMAGES."""
    return max(1, min(MAX_IMAGES, MAX_WAITING_BYTES // (spec.height * spec.width * 3)))


def most_shown(spec: ImageSpec, copies: int) -> int:
    """How many images one answer may show the transformed copies of, so many of each: 1 to MAX_IMAGES."""
    each = spec.height * spec.width * 3 * copies
    return max(1, min(MAX_IMAGES, MAX_COPIES_BYTES // each))


def _cgroup_quota() -> float | None:
    """Processors' worth of time that the control group grants; None without a limit that can be read."""
    try:
        quota, period = _CGROUP_V2.read_text().split()
    except (OSError, ValueError):
        try:
            quota = (_CGROUP_V1 / "cpu.cfs_quota_us").read_text().strip()
            period = (_CGROUP_V1 / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not (quota.isdigit() and period.isdigit() and int(period) > 0):  # no limit is "max" or "-1"
        return None
    return int(quota) / int(period)

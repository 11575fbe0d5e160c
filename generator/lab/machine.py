"""The GPU of this machine: its name and versions, its clock, and the most it was seen to do."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from generator.lab.recorded import PROVENANCE

Quantiles = tuple[float, float, float]
"""Median, 20 % and 80 % quantile, in ms."""
Timer = Callable[[Callable[[], Any]], Quantiles]


@dataclass(frozen=True)
class Machine:
    """The device that is timed, and what a recorded file says of it."""

    device: torch.device
    gpu: str
    driver: str
    cuda: str
    torch: str
    triton: str
    date: str

    def provenance(self) -> dict[str, str]:
        """Return the machine in words."""
        return {name: getattr(self, name) for name in PROVENANCE}


@dataclass(frozen=True)
class Ceilings:
    """What the machine was seen to do: bytes copied a second (read and written), matrix operations a second by dtype."""

    copy_bandwidth: float
    peaks: dict[str, float]


def this_machine() -> Machine:
    """Return the first GPU and the versions around it; raise RuntimeError where there is none to time."""
    if not torch.cuda.is_available():
        raise RuntimeError("no GPU here: nothing was measured and nothing recorded")
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("TRITON_INTERPRET=1 is set: the interpreter's speed says nothing; unset it")
    import triton

    return Machine(
        device=torch.device("cuda"),
        gpu=torch.cuda.get_device_name(),
        driver=_driver(),
        cuda=str(torch.version.cuda or torch.version.hip),
        torch=torch.__version__,
        triton=triton.__version__,
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


def gpu_timer(call: Callable[[], Any]) -> Quantiles:
    """Time a call on the GPU by device events, the cache flushed between repetitions; in ms."""
    from triton.testing import do_bench

    median, low, high = do_bench(call, warmup=25, rep=100, quantiles=[0.5, 0.2, 0.8])
    return median, low, high


def ceilings(device: torch.device, timer: Timer, *, copy_bytes: int = 2 << 30, side: int = 8192) -> Ceilings:
    """Measure a device-to-device copy of so many bytes, and square matrix products of this side, on random data."""
    source = torch.randn(copy_bytes // 4, device=device)
    target = torch.empty_like(source)
    bandwidth = 2e3 * copy_bytes / timer(lambda: target.copy_(source))[0]
    del source, target
    peaks = {}
    for name, dtype, tf32 in (
        ("bfloat16", torch.bfloat16, False),
        ("tf32", torch.float32, True),
        ("float32", torch.float32, False),
    ):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        with _tf32(tf32):
            peaks[name] = 2e3 * side**3 / timer(lambda a=a, b=b: a @ b)[0]  # type: ignore[misc]
    return Ceilings(bandwidth, peaks)


def cache_bytes(device: torch.device) -> int:
    """Return the size of the GPU's last-level cache in bytes; 0 elsewhere."""
    return torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 0


@contextlib.contextmanager
def _tf32(allowed: bool) -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _driver() -> str:
    try:
        ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(ask, capture_output=True, text=True, check=True, timeout=30).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        version = Path("/proc/driver/nvidia/version")
        found = re.search(r"\b\d{3}\.\d+(\.\d+)?\b", version.read_text() if version.exists() else "")
        return found[0] if found else "unknown"

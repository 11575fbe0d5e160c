"""A slug comes in; its experiment is run, its kernels are proved, and a folder with the result goes out."""

from __future__ import annotations

import contextlib
import datetime
import importlib
import os
import platform
import random
import resource
import sys
import tempfile
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from generator.lab.confine import settle
from generator.lab.recorder import Recorder


def perform(slug: str, folder: Path) -> None:
    """Run `snippets.<slug>.experiment` with a fixed seed and leave `result.json` and the figures in the folder."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    started = time.monotonic()
    record = Recorder(slug, folder)
    home = os.getcwd()
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=folder) as scratch:
        os.chdir(scratch)
        settle(Path(scratch))
        try:
            experiment = importlib.import_module(f"snippets.{slug}.experiment")
            experiment.run(record)
            provenance = _provenance(time.monotonic() - started)
            kernels = _prove(slug, getattr(experiment, "KERNELS", ()), Path(scratch))
        finally:
            os.chdir(home)
    record.save(kernels=kernels, provenance=provenance)


def _prove(slug: str, kernels: Any, scratch: Path) -> dict[str, Any]:
    """Return, for each declared kernel, how it agrees with its twin here, and what the compiler makes of it."""
    if not kernels:
        return {}
    from generator.lab.compiler import compiled
    from generator.lab.kernels import describe
    from generator.lab.parity import parity

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    where = "Triton's interpreter" if device.type == "cpu" else torch.cuda.get_device_name()
    rows = compiled(slug, scratch)
    return {
        kernel.name: {
            **describe(kernel),
            "compiled": [row for row in rows if row["kernel"] == kernel.name],
            "device": where,
            "parity": [{**_finite(asdict(one)), "holds": one.holds} for one in parity(kernel, device)],
        }
        for kernel in kernels
    }


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with infinities as text: JSON has none."""
    return {
        name: str(value) if isinstance(value, float) and value == float("inf") else value for name, value in row.items()
    }


def _provenance(seconds: float) -> dict[str, Any]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    versions = {}
    for package in ("torch", "triton", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "measured": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "seconds": round(seconds, 2),
        "peak_memory": peak,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU ({platform.machine()}), one thread",
        **versions,
    }

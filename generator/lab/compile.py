"""A declared kernel comes in; what Triton's compiler makes of it for real targets goes out, no GPU needed.

The launches are taken from the op itself: it is called on its declared inputs with Triton's launcher replaced by one
that notes function, arguments and options. Run as `python -m generator.lab.compile [--every] SLUG…`, in a process without
the interpreter; prints one JSON line a compiled kernel, and one more when all are.
"""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from generator.lab.kernels import Kernel

TARGETS = {
    "cuda:80": GPUTarget("cuda", 80, 32),
    "cuda:90": GPUTarget("cuda", 90, 32),
    "cuda:100": GPUTarget("cuda", 100, 32),
    "hip:gfx942": GPUTarget("hip", "gfx942", 64),
}
FULL = "cuda:90"
"""The one target that a build compiles every dtype for; the others get the dtype of `usual`, or a build would mostly compile."""
_OPTIONS = ("num_warps", "num_stages", "num_ctas", "maxnreg")
_DTYPES = {
    torch.float64: "*fp64", torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16",
    torch.int64: "*i64", torch.int32: "*i32", torch.int16: "*i16", torch.int8: "*i8", torch.uint8: "*u8", torch.bool: "*i1",
}  # fmt: skip


@dataclass(frozen=True)
class Launch:
    """One call of a Triton function: what it was called with, and how it was to be compiled."""

    function: Any
    arguments: dict[str, Any]
    options: dict[str, Any]


@dataclass(frozen=True)
class Compiled:
    """What the compiler made of one function for one target."""

    kernel: str
    function: str
    target: str
    dtype: str
    registers: int
    spills: int
    shared: int
    widest_load: int
    """Bytes of the widest load from global memory, a thread."""
    widest_store: int


def usual(kernel: Kernel) -> torch.dtype:
    """Return float32, or what the kernel declares first if it does not take that."""
    return torch.float32 if torch.float32 in kernel.dtypes else kernel.dtypes[0]


def compile_kernel(kernel: Kernel, every: bool = False) -> Iterator[Compiled]:
    """Compile every launch of a kernel, forward and backward: each dtype for one target, float32 for all of them.

    With `every`, each dtype for all of them.
    """
    for dtype in kernel.dtypes:
        seen = set()
        for launch in launches(kernel, dtype):
            source, identity = _source(launch)
            if identity in seen:
                continue
            seen.add(identity)
            for target in TARGETS:
                if not (every or target == FULL or dtype == usual(kernel)):
                    continue
                built = triton.compile(source, target=TARGETS[target], options=launch.options)
                yield _read(built, kernel.name, launch.function.fn.__name__, target, str(dtype).removeprefix("torch."))


def launches(kernel: Kernel, dtype: torch.dtype) -> list[Launch]:
    """Call the op, and its backward, on declared inputs, and note what it would launch."""
    found: list[Launch] = []

    def note(function: Any, *values: Any, grid: Any = None, warmup: bool = False, **named: Any) -> None:
        options = {key: named.pop(key) for key in _OPTIONS if key in named}
        bound = inspect.signature(function.fn).bind(*values, **named)
        bound.apply_defaults()
        found.append(Launch(function, dict(bound.arguments), options))

    arguments = kernel.inputs(_small(kernel), dtype, torch.device("cpu"), 0)
    for name in kernel.differentiable:
        arguments[name] = arguments[name].detach().requires_grad_()
    modules = {sys.modules[kernel.op.__module__]}
    with contextlib.ExitStack() as stack:
        for module in modules:
            stack.enter_context(mock.patch.object(module, "INTERPRETED", True))
        stack.enter_context(mock.patch.object(triton.runtime.JITFunction, "run", note))
        outputs = kernel.op(**arguments)
        outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
        if kernel.differentiable:
            carrying = [one for one in outputs if isinstance(one, Tensor) and one.requires_grad]
            torch.autograd.backward(carrying, [torch.ones_like(one) for one in carrying])
    return found


def _small(kernel: Kernel) -> tuple[int, ...]:
    """Return a shape whose sizes are multiples of 16, so that the full-block path is compiled as it is at scale."""
    if kernel.compile_shape:
        return kernel.compile_shape
    even = [shape for shape in kernel.shapes if shape and all(size and size % 16 == 0 for size in shape)]
    return max(even, key=math.prod, default=tuple(kernel.shapes[-1]))


def _source(launch: Launch) -> tuple[ASTSource, str]:
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    constexprs = {launch.function.arg_names[n] for n in launch.function.constexprs}
    for n, (name, value) in enumerate(launch.arguments.items()):
        if name in constexprs or value is None or (type(value) is int and value == 1):
            signature[name] = "constexpr"
            constants[name] = value
        elif isinstance(value, Tensor):
            signature[name] = _DTYPES[value.dtype]
            attributes[(n,)] = [["tt.divisibility", 16]]
        elif declared := launch.function.params[n].annotation_type:
            signature[name] = declared
        elif isinstance(value, bool):
            signature[name] = "i1"
        elif isinstance(value, int):
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(n,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32"
    identity = f"{launch.function.fn.__name__} {signature} {constants} {sorted(attributes)}"
    return ASTSource(launch.function, signature=signature, constexprs=constants, attrs=attributes), identity


def _read(built: Any, kernel: str, function: str, target: str, dtype: str) -> Compiled:
    if target.startswith("cuda"):
        registers, spills = _cuda_usage(built.asm["cubin"])
        loads, stores = (
            _widths(rf"{kind}\.global[\w.:]*?(?:\.v(\d+))?\.[bfus](\d+)", built.asm["ptx"]) for kind in ("ld", "st")
        )
        loads += _widths(
            r"cp\.async\.c[ag]\.shared\.global[^,;]*?\],\s*\[[^\]]*\],\s*()(0x[0-9a-f]+|\d+)", built.asm["ptx"], unit=1
        )
    else:
        assembly = built.asm["amdgcn"]
        registers = int(re.search(r"\.vgpr_count:\s*(\d+)", assembly)[1])  # type: ignore[index]
        spills = sum(int(one) for one in re.findall(r"\.[sv]gpr_spill_count:\s*(\d+)", assembly))
        loads, stores = (_hip_widths(kind, assembly) for kind in ("load", "store"))
    return Compiled(
        kernel,
        function,
        target,
        dtype,
        registers,
        spills,
        built.metadata.shared,
        max(loads, default=0),
        max(stores, default=0),
    )


def _widths(pattern: str, text: str, unit: int = 8) -> list[int]:
    return [int(lanes or 1) * int(size, 0) // unit for lanes, size in re.findall(pattern, text)]


def _hip_widths(kind: str, text: str) -> list[int]:
    names = re.findall(rf"(?:global|buffer)_{kind}_(dwordx4|dwordx3|dwordx2|dword|[us]?short|[us]?byte)", text)
    sizes = {"dwordx4": 16, "dwordx3": 12, "dwordx2": 8, "dword": 4}
    return [sizes.get(name, 2 if "short" in name else 1) for name in names]


def _cuda_usage(cubin: bytes) -> tuple[int, int]:
    """Return registers and spilled (local and stack) bytes, as the disassembler that Triton bundles reports them."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    usage = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", said)}
    return usage["REG"], usage.get("STACK", 0) + usage.get("LOCAL", 0)


def main(slugs: list[str], every: bool = False) -> None:
    for slug in slugs:
        for kernel in getattr(importlib.import_module(f"snippets.{slug}.experiment"), "KERNELS", ()):
            for one in compile_kernel(kernel, every):
                print(json.dumps({"slug": slug, **asdict(one)}), flush=True)
    print(json.dumps({"done": True}), flush=True)


if __name__ == "__main__":
    main([slug for slug in sys.argv[1:] if slug != "--every"], every="--every" in sys.argv)

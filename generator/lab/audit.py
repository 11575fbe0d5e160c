"""Triton's intermediate code comes in; arithmetic that is too narrow goes out: what no small input can show.

An index computed in 32 bits is wrong only beyond 2³¹ elements, and half-precision arithmetic may lie within the
tolerance of its dtype; both are plain in the code. Run as `python -m generator.lab.audit SLUG…` (or the name of a module
with KERNELS), in a process without the interpreter; prints one JSON line a function and dtype.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Iterator

import triton

from generator.lab.compile import TARGETS, _source, launches
from generator.lab.kernels import Kernel

_HALF = re.compile(r"(?:bf16|f16)>?$")
_ASSIGNED = re.compile(r"^\s*(%[\w#]+)(?::\d+)? = \"?([\w.]+)\"?(.*)")
_EXACT = (
    "constant", "extf", "truncf", "select", "bitcast", "sitofp", "uitofp", "cmpf", "negf", "absf",
    "maximumf", "minimumf", "maxnumf", "minnumf",
)  # fmt: skip
"""Float operations that round nothing, or whose rounding is the result's own."""
_GROWS = ("arith.muli", "arith.shli")
_BOUNDS = ("arith.remsi", "arith.remui", "arith.andi", "arith.cmpi", "arith.minsi", "arith.minui", "tt.addptr")
"""What makes a number small again, or is no number."""


def faults(code: str) -> list[str]:
    """Return what is computed too narrowly in one function's TTIR, in words, each once."""
    lines = [re.sub(r" loc\(.*\)$", "", line) for line in code.splitlines()]
    return list(dict.fromkeys([*_half_arithmetic(lines), *_narrow_indices(lines)]))


def _half_arithmetic(lines: list[str]) -> list[str]:
    """Return the arithmetic on half-precision numbers; a matrix product's operands may be narrow, its sum is not."""
    found = []
    for line in lines:
        if (match := _ASSIGNED.match(line)) and (narrow := _HALF.search(line)):
            operation = match[2]
            family, _, verb = operation.partition(".")
            if family in ("arith", "math") and verb not in _EXACT:
                found.append(f"{operation} computes in {narrow[0].rstrip('>')}: no upcast before it")
    return found


def _narrow_indices(lines: list[str]) -> list[str]:
    """Return the offsets into memory that a 32-bit product of a large number reaches.

    Large are the program's number, sizes given as arguments, and indices read from memory: each fits 32 bits, its
    product with anything does not. Widening a product afterwards keeps what was lost; taking a remainder or a minimum
    makes it small. Marks pass through everything else, into loops, around them and out.
    """
    steps = list(_steps(lines))
    large = {name for line in lines if "tt.func" in line for name in re.findall(r"(%\w+): i32", line)}
    products: set[str] = set()
    marked = -1
    while marked != len(large) + len(products):
        marked = len(large) + len(products)
        for name, operation, operands, narrow in steps:
            if operation == "tt.get_program_id" or (operation == "tt.load" and narrow):
                large.add(name)
            elif operation in _BOUNDS:
                continue
            elif products & operands or (narrow and operation in _GROWS and large & operands):
                products.add(name)
            elif narrow and large & operands:  # 64 bits wide, whatever follows is
                large.add(name)
    offsets = (re.search(r"tt\.addptr %[\w#]+, (%[\w#]+)", line) for line in lines)
    reached = dict.fromkeys(one[1] for one in offsets if one and one[1] in products)
    return [f"{name}: an index into memory is a 32-bit product of a number that may be large" for name in reached]


def _steps(lines: list[str]) -> Iterator[tuple[str, str, set[str], bool]]:
    """Yield (value, operation, operands, whether it is a 32-bit integer) for all that is defined, through loops and branches."""
    regions: list[tuple[str, list[str]]] = []  # for each open one: the result it yields to, and what its turns carry
    for line in lines:
        text = line.strip()
        match = _ASSIGNED.match(line)
        starts: list[tuple[str, str]] = []
        if text.startswith("}") and "else" not in text and regions:
            regions.pop()
        if "scf.for" in text:
            # `%a = %b to …` is the loop's own variable; `(%c = %d, …)` are those it carries
            starts = re.findall(r"(%\w+) = (%[\w#]+)", text)
            for name, start in starts:
                yield name, "scf.for", {start}, True
        elif match:
            yield match[1], match[2], set(re.findall(r"%\w+(?:#\d+)?", match[3])), bool(re.search(r"i32>*$", text))
        if text.endswith("{") and not text.startswith("}"):
            regions.append((match[1] if match else "", [name for name, _ in starts[1:]]))
        if text.startswith("scf.yield") and regions:
            result, carried = regions[-1]
            for n, value in enumerate(re.findall(r"%\w+(?:#\d+)?", text)):
                for name in (f"{result}#{n}", *carried[n : n + 1], *([result] if n == 0 else [])):
                    yield name, "scf.yield", {value}, True


def audit(kernel: Kernel) -> list[dict[str, object]]:
    """Return the faults of every function that a kernel launches, by dtype."""
    rows = []
    for dtype in kernel.dtypes:
        seen = set()
        for launch in launches(kernel, dtype):
            source, identity = _source(launch)
            if identity not in seen:
                seen.add(identity)
                built = triton.compile(source, target=TARGETS["cuda:90"], options=launch.options)
                name, short = launch.function.fn.__name__, str(dtype).removeprefix("torch.")
                found = [f"{name} ({short}): {fault}" for fault in faults(built.asm["ttir"])]
                rows.append({"kernel": kernel.name, "function": name, "dtype": short, "faults": found})
    return rows


def main(names: list[str]) -> None:
    for name in names:
        module = importlib.import_module(name if "." in name else f"snippets.{name}.experiment")
        for kernel in getattr(module, "KERNELS", ()):
            for row in audit(kernel):
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""Slugs come in; their kernels are timed on this machine's GPU, and `snippets/<slug>/recorded/<gpu>.json` goes out."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from generator.lab.machine import Ceilings, Machine, ceilings, gpu_timer, this_machine
from generator.lab.recorded import RecordedError
from generator.lab.sheet import Sheet, keep, open_sheet, pending, summary
from generator.lab.timing import Refused, measure

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 540
"""Time one run may take unless told: ten minutes, less what starting and leaving take."""


def bench(
    sheets: Iterable[Sheet],
    machine: Machine,
    *,
    timed: Callable[..., tuple[list[dict[str, Any]], list[str]]],
    seen: Callable[[], Ceilings],
    seconds: float = SECONDS,
    force: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> bool:
    """Measure what is not recorded, writing after each case; return whether nothing had to be refused.

    Stops before a case that the time left would not hold, judging by the longest so far, in seconds.
    """
    started = clock()
    cases = [case for sheet in sheets for case in pending(sheet, machine, force)]
    if not cases:
        print("nothing to measure: every row is recorded for these kernels, torch and triton")
        return True
    most = seen()
    _say_ceilings(most)
    longest, sound = 0.0, True
    for nth, case in enumerate(cases):
        begun = clock()
        if begun - started + longest >= seconds:
            print(f"out of time after {begun - started:.0f} s, {len(cases) - nth} of {len(cases)} left:")
            print(*(f"  {one}" for one in cases[nth:]), "the same command goes on from here", sep="\n")
            break
        try:
            rows, refusals = timed(case.kernel, case.shape, case.dtype, case.directions, machine.device)
        except Refused as wrong:
            rows, refusals = [], [str(wrong)]
        except Exception as error:  # one kernel that cannot run must not cost the others their turn
            rows, refusals = [], [f"{type(error).__name__}: {error}".splitlines()[0]]
        for why in refusals:
            print(f"{case}: not recorded: {why}", flush=True)
        sound = sound and not refusals
        if rows:
            keep(case, rows, machine, most)
            print(*(f"{case} {summary(row)}" for row in rows), sep="\n", flush=True)
        longest = max(longest, clock() - begun)
    return sound


def _say_ceilings(seen: Ceilings) -> None:
    peaks = ", ".join(f"{name} {value / 1e12:.0f} Tflop/s" for name, value in seen.peaks.items())
    print(f"copy {seen.copy_bandwidth / 1e9:.0f} GB/s read and written; matrix product {peaks}", flush=True)


def main(words: Sequence[str] | None = None) -> int:
    """Read the command line, measure, and return the exit status: 1 where anything could not be recorded."""
    known = sorted(path.parent.name for path in (ROOT / "snippets").glob("*/kernel.py"))
    parser = argparse.ArgumentParser(prog="python -m generator.lab.bench", description=__doc__)
    parser.add_argument("slugs", nargs="*", metavar="SLUG", help=f"default: all ({', '.join(known)})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="stop cleanly within this time (default: 540)")
    parser.add_argument("--out", type=Path, help="write below this folder instead of snippets/")
    parser.add_argument("--force", action="store_true", help="measure again what is recorded")
    chosen = parser.parse_args(words)
    if unknown := sorted(set(chosen.slugs) - set(known)):
        parser.error(f"no kernel.py in snippets/{unknown[0]}; there are: {', '.join(known)}")
    try:
        machine = this_machine()
    except RuntimeError as why:
        print(f"papernotes bench: {why}", file=sys.stderr)
        return 1
    sheets, sound = [], True
    sys.path.insert(0, str(ROOT))
    for slug in chosen.slugs or known:
        try:
            kernels = getattr(importlib.import_module(f"snippets.{slug}.experiment"), "KERNELS", ())
            sheets.append(open_sheet(slug, ROOT / "snippets" / slug, kernels, machine.gpu, chosen.out))
        except (ImportError, RecordedError) as why:
            print(f"{slug}: left out: {why}", file=sys.stderr)
            sound = False
    whole = bench(
        sheets,
        machine,
        timed=partial(measure, timer=gpu_timer, seed=time.time_ns() % 2**31),
        seen=partial(ceilings, machine.device, gpu_timer),
        seconds=chosen.seconds,
        force=chosen.force,
    )
    return 0 if whole and sound else 1


if __name__ == "__main__":
    sys.exit(main())

"""Run every target under a coverage-guided fuzzer for a while; what it found is kept in build/fuzz/ and said.

`make fuzz TIME=60`, or `python tests/fuzz/run.py --seconds 60 [TARGET]...`. An input that was kept is tried again with
`python tests/fuzz/run.py --again FILE TARGET`.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KEPT = ROOT / "build" / "fuzz"
MEMORY = 2048
"""MiB that an input may bring a process to."""
LONGEST = 4096
"""Bytes of an input, or of its longest seed; some targets repeat it."""
FINDINGS = 5
"""Inputs that break a target before it is given up: the rest are mostly the same again."""
sys.path[:0] = [str(ROOT), str(HERE.parent), str(HERE)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--again", type=Path)
    parser.add_argument("names", nargs="*")
    asked, rest = parser.parse_known_args()
    try:
        import atheris  # noqa: F401
    except ImportError:
        print(
            "skipped: fuzzing needs atheris (pip install -e '.[fuzz]'), which is made for Linux and for Python up to 3.13"
        )
        return
    if asked.child:
        child(asked.names[0], rest)
        return
    import targets

    if asked.again:
        targets.feed(asked.names[0], asked.again.read_bytes())
        return
    KEPT.mkdir(parents=True, exist_ok=True)
    words = ("".join(f"\\x{byte:02x}" for byte in word.encode("utf-8", "replace")) for word in targets.TOKENS if word)
    (KEPT / "tokens.dict").write_text("".join(f'"{word}"\n' for word in words), encoding="utf-8")
    print(f"{'target':<10} {'inputs':>9} {'seconds':>8} {'coverage':>9}  found")
    sums = [fuzz(name, targets.seeds(name), asked.seconds) for name in asked.names or targets.NAMES]
    print(f"{'all':<10} {sum(inputs for inputs, _ in sums):>9,} {'':>8} {'':>9}  {sum(found for _, found in sums)}")
    sys.exit(any(found for _, found in sums))


def fuzz(name: str, seeds: list[bytes], seconds: int) -> tuple[int, int]:
    """Run one target for so long, say how it went, and return how many inputs it had and how many broke it."""
    corpus, broken = KEPT / "corpus" / name, KEPT / "found" / name
    for folder in (corpus, broken):
        folder.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    before = set(broken.iterdir())
    inputs = coverage = 0
    started = time.monotonic()
    while (left := seconds - int(time.monotonic() - started)) > 0:
        command = [
            sys.executable, str(Path(__file__)), "--child", name, str(corpus), f"-max_total_time={left}", f"-max_len={max(LONGEST, *map(len, seeds))}",
            f"-rss_limit_mb={MEMORY}", "-timeout=60", "-print_final_stats=1", "-len_control=0", "-detect_leaks=0", f"-dict={KEPT / 'tokens.dict'}",
            f"-artifact_prefix={broken}/", f"-seed={int(time.time())}",
        ]  # fmt: skip
        with (KEPT / f"{name}.log").open("ab") as log:
            done = subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, "PYTHONHASHSEED": "0"}
            )
        said = (KEPT / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-40_000:]
        inputs += int(
            (re.findall(r"number_of_executed_units: (\d+)", said) or re.findall(r"^#(\d+)\t", said, re.M) or ["0"])[-1]
        )
        coverage = int((re.findall(r" cov: (\d+)", said) or ["0"])[-1])
        if done.returncode == 0 or len(set(broken.iterdir()) - before) >= FINDINGS:
            break
        if not set(broken.iterdir()) - before:
            sys.exit(f"{name}: the fuzzer itself ended with status {done.returncode}; see {KEPT / name}.log")
    found = sorted(set(broken.iterdir()) - before)
    took = time.monotonic() - started
    print(f"{name:<10} {inputs:>9,} {took:>8.0f} {coverage:>9,}  {len(found) or 'nothing'}", flush=True)
    for path in found:
        print(f"  {path.relative_to(ROOT)}")
    return inputs, len(found)


def child(name: str, arguments: list[str]) -> None:
    """Instrument what the target calls, and hand it to libFuzzer, which does not return."""
    import atheris

    with atheris.instrument_imports(include=["generator", "yaml", "bibtexparser", "tarfile"]):
        import targets

    atheris.Setup([sys.argv[0], *arguments], lambda data: targets.feed(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()

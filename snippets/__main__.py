"""Run one snippet by hand and print what it records: `python -m snippets elu [--figures DIR]`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

# Before triton is imported: without a GPU its kernels run in the interpreter.
if not Path("/proc/driver/nvidia/gpus").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def main() -> int:
    known = sorted(path.parent.name for path in Path(__file__).parent.glob("*/experiment.py"))
    parser = argparse.ArgumentParser(prog="python -m snippets", description=__doc__)
    parser.add_argument("slug", choices=known, metavar="slug", help=", ".join(known))
    parser.add_argument("--figures", type=Path, help="keep the figures in this folder")
    chosen = parser.parse_args()

    from generator.lab.perform import perform

    with tempfile.TemporaryDirectory() as scratch:
        folder = chosen.figures or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        perform(chosen.slug, folder.resolve())
        recorded = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    for name, metric in recorded["metrics"].items():
        seeds = f"  over seeds {metric['seeds']}" if "seeds" in metric else ""
        print(f"{name} = {metric['value']} {metric['unit']}".rstrip() + seeds)
    for name, table in recorded["tables"].items():
        print(f"\n{name}: " + " | ".join(table["columns"]))
        for row in table["rows"]:
            print("  " + " | ".join(map(str, row)))
    print(f"\nfigures: {', '.join(recorded['figures']) or 'none'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

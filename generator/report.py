"""How a run went comes in; the same for other programs goes out: JUnit's XML, and JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any
from xml.etree import ElementTree

from generator.run import Runs

FORMAT = 1
CONTROL = re.compile(r"[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold."""


@dataclass(frozen=True)
class Summary:
    """A run in numbers."""

    ran: int
    reused: int
    failed: int
    missing: int
    seconds: float
    saved: float
    """What the reused results took when they were measured."""

    def __str__(self) -> str:
        said = f"{self.ran} ran, {self.reused} reused, {self.failed} failed in {self.seconds:.1f} s"
        said += f", {self.missing} missing" if self.missing else ""
        return said + (f"; {self.saved:.0f} s saved" if self.saved >= 1 else "")


def summary(runs: Runs, slugs: Iterable[str], seconds: float) -> Summary:
    """Count how the named snippets came out."""
    return _counted(list(_each(runs, slugs)), seconds)


def _counted(cases: list[dict[str, Any]], seconds: float) -> Summary:
    states = [one["state"] for one in cases]
    saved = sum(one["took"] for one in cases if one["state"] == "reused")
    ran, reused, failed, missing = (states.count(state) for state in ("ran", "reused", "failed", "missing"))
    return Summary(ran, reused, failed, missing, seconds, saved)


def as_json(runs: Runs, slugs: Iterable[str], seconds: float) -> str:
    """Return the run as JSON: the counts, and each snippet with how it came out and what it took."""
    cases = list(_each(runs, slugs))
    said = {"format": FORMAT, **asdict(_counted(cases, seconds)), "snippets": cases}
    return json.dumps(said, indent=1, ensure_ascii=False) + "\n"


def as_junit(runs: Runs, slugs: Iterable[str], seconds: float) -> str:
    """Return the run as JUnit's XML, a test case a snippet."""
    cases = list(_each(runs, slugs))
    counts = _counted(cases, seconds)
    numbers = {"tests": len(cases), "failures": counts.failed, "errors": 0, "skipped": counts.missing}
    about = {name: str(value) for name, value in numbers.items()} | {"time": f"{seconds:.3f}"}
    suites = ElementTree.Element("testsuites", about)
    suite = ElementTree.SubElement(suites, "testsuite", {"name": "papernotes", **about})
    for one in cases:
        spent = one["took"] if one["state"] in ("ran", "failed") else 0.0
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": "snippets", "name": one["slug"], "time": f"{spent:.3f}"}
        )
        if one["state"] == "failed":
            said = {"type": one["outcome"], "message": _clean(one["error"])}
            ElementTree.SubElement(case, "failure", said).text = _clean(one["tail"])
        elif one["state"] == "missing":
            ElementTree.SubElement(case, "skipped", {"message": _clean("; ".join(one["why"]) or "never run")})
        elif one["state"] == "reused":
            ElementTree.SubElement(case, "system-out").text = f"reused; measured in {one['took']:.1f} s"
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _each(runs: Runs, slugs: Iterable[str]) -> Iterator[dict[str, Any]]:
    for slug in slugs:
        if result := runs.results.get(slug):
            state = "ran" if slug in runs.executed else "reused"
            yield {
                "slug": slug,
                "state": state,
                "key": result.key,
                "took": float(result.data["run"].get("seconds", 0.0)),
                "peak_memory": result.data["run"].get("peak_memory", 0),
                "environment": dict(result.provenance),
            }
        elif failure := runs.failures.get(slug):
            said = failure.model_dump(exclude={"slug", "seconds"})
            yield {"slug": slug, "state": "failed", "took": failure.seconds, **said}
        else:
            yield {"slug": slug, "state": "missing", "took": 0.0, "why": list(runs.missing.get(slug, ()))}


def _clean(text: str) -> str:
    return CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)

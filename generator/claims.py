"""A claim and a result come in; the verdict, computed and never typed, goes out."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

from generator.places import place
from generator.schema import Claim, Expect, Judgement, Note, Problem, Result, Verdict
from generator.spelling import nearest


def judge(claim: Claim, result: Result | None) -> Judgement:
    """Return the verdict on one claim, with the number and the setting it rests on."""
    if claim.reported:
        return Judgement(claim=claim, verdict="reported only")
    if not claim.metric or not claim.expect or result is None or claim.metric not in result.metrics:
        return Judgement(claim=claim, verdict="untested", predicted=predicted(claim.expect, {}))
    metric = result.metrics[claim.metric]
    holds, seeds = _judge_seeds(claim.expect, metric, result.metrics)
    verdict: Verdict = "untested" if holds is None else "reproduced" if holds else "contradicted"
    return Judgement(
        claim=claim,
        verdict=verdict,
        measured=shown(metric),
        predicted=predicted(claim.expect, result.metrics),
        setting=metric.get("setting", ""),
        seeds=seeds,
    )


def judge_all(note: Note, result: Result | None) -> list[Judgement]:
    """Return the verdict on each of a note's claims, in their order."""
    names = identifiers(note)
    return [
        judge(claim, result).model_copy(update={"id": name})
        for name, claim in zip(names, note.front.claims, strict=True)
    ]


def identifiers(note: Note) -> list[str]:
    """Return a name for each claim, unique in its note, that holds when other claims come and go.

    It is the metric; for a claim without one, or the second on a metric, a digest of what it says.
    """
    found: list[str] = []
    for claim in note.front.claims:
        name = claim.metric
        if not name or name in found:
            name = hashlib.sha256(" ".join(claim.says.split()).encode()).hexdigest()[:8]
        found.append(name if name not in found else f"{name}-{len(found)}")
    return found


def problems(note: Note, result: Result | None) -> list[Problem]:
    """Return what a note says of its claims that its own result does not bear out."""
    if result is None:
        return []
    found = []
    for number, claim in enumerate(note.front.claims):
        at = place(note, "claims", number)
        for name in (claim.metric, *_others(claim.expect)):
            if name and name not in result.metrics:
                fix = nearest(name, result.metrics)
                found.append(Problem(note.file, at, f"unknown metric '{name}'", fix, code="unknown-metric"))
        verdict = judge(claim, result).verdict
        expected = claim.verdict or "reproduced"
        if claim.metric and claim.metric in result.metrics and verdict not in (expected, "untested"):
            fix = "write 'verdict: contradicted' and because: with the setting and what was seen"
            if verdict == "reproduced":
                fix = f"drop 'verdict: {claim.verdict}', or mend what it expects"
            what = f"this claim came out {verdict} ({shown(result.metrics[claim.metric])}), the note says {expected}"
            found.append(Problem(note.file, at, what, fix, code="verdict"))
    return found


def _others(expect: Expect | None) -> list[str]:
    bounds = (expect.below, expect.above) if expect else ()
    return [bound for bound in bounds if isinstance(bound, str)]


def _judge_seeds(expect: Expect, metric: Mapping[str, Any], metrics: Mapping[str, Any]) -> tuple[bool | None, str]:
    """Judge the mean; where there is one value a seed, count the seeds for which it holds as well."""
    holds = _holds(expect, metric["value"], lambda name: _at(metrics, name, None))
    values = metric.get("seeds")
    if not values or holds is None or len(values) == 1:
        return holds, ""
    each = [_holds(expect, value, lambda name, n=n: _at(metrics, name, n)) for n, value in enumerate(values)]
    count = sum(bool(one) for one in each)
    return holds, f"holds for {count} of {len(values)} seeds"


def _at(metrics: Mapping[str, Any], name: str, seed: int | None) -> Any:
    metric = metrics.get(name)
    if metric is None:
        return None
    values = metric.get("seeds")
    return values[seed] if seed is not None and values and seed < len(values) else metric["value"]


def _holds(expect: Expect, value: Any, look_up: Any) -> bool | None:
    """Return whether a value is as expected; None where it cannot be compared."""
    if expect.equals is not None:
        if isinstance(value, float) and isinstance(expect.equals, float | int):
            return math.isclose(value, expect.equals, rel_tol=1e-12)
        return bool(value == expect.equals)
    if isinstance(value, str):
        return None
    if expect.near is not None and expect.within is not None:
        return abs(value - expect.near) <= expect.within
    if expect.between is not None:
        return expect.between[0] <= value <= expect.between[1]
    bound = expect.below if expect.below is not None else expect.above
    bound = look_up(bound) if isinstance(bound, str) else bound
    if bound is None or isinstance(bound, str):
        return None
    return value < bound if expect.below is not None else value > bound


def predicted(expect: Expect | None, metrics: Mapping[str, Any]) -> str:
    """Return in words what a claim predicts: '1 ± 0.15', 'below loss_relu (0.31)'."""
    if expect is None:
        return ""
    if expect.near is not None and expect.within is not None:
        return f"{number(expect.near)} ± {number(expect.within)}"
    if expect.between is not None:
        return f"{number(expect.between[0])} to {number(expect.between[1])}"
    if expect.equals is not None:
        return f"exactly {number(expect.equals)}" if not isinstance(expect.equals, bool) else "holds"
    word, bound = ("below", expect.below) if expect.below is not None else ("above", expect.above)
    if isinstance(bound, str):
        return f"{word} {bound}" + (f" ({shown(metrics[bound])})" if bound in metrics else "")
    return f"{word} {number(bound)}"


def shown(metric: Mapping[str, Any], spec: str = "") -> str:
    """Return a metric as text: its value, its range over the seeds, its unit."""
    value = metric["value"]
    text = _typeset(format(value, spec)) if spec and not isinstance(value, str) else number(value)
    seeds = metric.get("seeds") or ()
    if len(set(seeds)) > 1 and not spec:
        text += f" ({number(min(seeds))} to {number(max(seeds))})"
    unit = metric.get("unit", "")
    return text + (f"\u202f{unit}" if unit else "")


def number(value: Any) -> str:
    """Return a number to four significant digits, as people write it."""
    return _typeset(_plain(value)) if isinstance(value, int | float) else str(value)


def _plain(value: int | float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u2009") if abs(value) >= 10_000 else str(value)
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    return f"{value:.3g}"


def _typeset(text: str) -> str:
    """Return '-1.2e-09' as '−1.2·10⁻⁹'."""
    mantissa, _, exponent = text.partition("e")
    power = f"·10{str(int(exponent)).translate(_SUPERSCRIPT)}" if exponent.lstrip("+-").isdigit() else ""
    return (mantissa if power else text).replace("-", "−") + power


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

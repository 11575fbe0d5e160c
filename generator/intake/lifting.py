"""A foreign body comes in; the same without comments and with its displayed formulae lifted out goes out, line by line."""

from __future__ import annotations

import re
from collections.abc import Callable

from generator.formulae import FormulaError, mathml
from generator.intake.blocks import code_lines
from generator.intake.names import one_line
from generator.lift import Lifted
from generator.markup import ticks

_OPENING = re.compile(r"\\.|%%|<!--|\$\$|(?<!`)(?P<run>`+)(?!`)[^\n]*?(?<!`)(?P=run)(?!`)", re.DOTALL)
_CLOSING = {"%%": "%%", "<!--": "-->", "$$": "$$"}


def lift(body: str, first: int, lifted: Lifted, lost: Callable[..., None]) -> tuple[str, list[int]]:
    """Return the text that is left, and for each of its lines the one of the file that it came from."""
    code = code_lines(body)
    out: list[str] = []
    origin = [first]
    line = first
    run: list[str] = []

    def keep(text: str) -> None:
        nonlocal line
        out.append(text)
        for _ in range(text.count("\n")):
            line += 1
            origin.append(line)

    def finish() -> None:
        nonlocal line
        for kind, text in _pieces("".join(run)):
            if kind == "text":
                keep(text)
                continue
            if kind == "$$":
                keep(_formula(text, "".join(out).rpartition("\n")[2] if len(out) < 50 else out[-1], lifted, lost, line))
            else:
                lost(line, "comment", f"is left out: {one_line(text, 60)}")
            line += text.count("\n")
        run.clear()

    for number, text in enumerate(body.split("\n")):
        whole = text + "\n"
        if number in code:
            finish()
            keep(whole)
        else:
            run.append(whole)
    finish()
    return "".join(out).rstrip("\n") + "\n", origin


def _pieces(text: str) -> list[tuple[str, str]]:
    """Return comments, displayed formulae and the text between them; what is never closed is text."""
    found: list[tuple[str, str]] = []
    at = start = 0
    unclosed: set[str] = set()
    while match := _OPENING.search(text, at):
        closing = _CLOSING.get(match[0])
        at = match.end()
        if closing is None or closing in unclosed:
            continue
        end = text.find(closing, at)
        if end < 0:
            unclosed.add(closing)
            continue
        found.append(("text", text[start : match.start()]))
        at = start = end + len(closing)
        found.append((match[0], text[match.start() : start]))
    return [*found, ("text", text[start:])]


def _formula(text: str, before: str, lifted: Lifted, lost: Callable[..., None], line: int) -> str:
    latex = text[2:-2]
    if before.lstrip().startswith(">"):  # within a quote its lines begin with >
        latex = re.sub(r"(?m)^[ \t]*(?:>[ \t]?)+", "", latex)
    latex = re.sub(r"\n\s*\n", "\n", latex.strip())
    try:
        mathml(latex, display=True)
    except FormulaError as error:
        lost(line, f"formula {one_line(text, 40)}", f"is shown as LaTeX: {error}")
        flat = " ".join(latex.split())
        around = ticks(flat)
        return lifted.put("code", f"{around}{flat}{around}") if flat else ""
    return lifted.put("display math", latex)

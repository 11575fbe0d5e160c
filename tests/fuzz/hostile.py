"""Inputs of 100 kB that are slow to read where reading is quadratic, deep where it recurses, large where it expands."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[n]) for n in (2, 1, 0)]

SIZE = 100_000
MEMORY = 2 * 2**30
RUNS = [
    "[", "]", "(", "$", "$a", "$$", "{{", "{{ ", "}}", "{%", "{#", "`", "`a", "```\n", "~~~\n", "\\[", "\\(", "[[", "[[a", "[[a|", "[@", "[@a;",
    "*", "_", "**a", "<", "<a ", "<!--", "-->", "&", "|", "| a ", "> ", ">", "- ", "1. ", " ", "\n", "\n ", "\t", "[^1]", "[a](", "![", "](",
    "!!! a\n", "#", "# a\n", "a", "a ", "a.\n\n", "\\", "\\$", "\ue000", "\u0301", "\x00", "<div>", "{", "{:", "{.a", "}", "{.a}", "{#a.a", "---\n",
    "[[other]] a ", "[[other]] A. ", "[[nowhere]] ", "[@doe2020toy] ", "[@nobody] ", "$a$ ", "$$a$$\n\n", "`a` ", "```\na\n```\n\n", "| [[other]] |\n",
    "{{ metric('two') }}", "{{ metric('no') }}", "{{ ref('no') }}", "{{ figure('line') }}", "{{ claims }}", "{{ claims.a }}", "<b>", "![a](b.png) ",
    "[a](javascript:b) ", "[a]: b\n", "<http://a.b> ", "é", "\U0001d518",
]  # fmt: skip
"""What a body is filled with."""
NESTS = [
    ("{{ " + "(" * 1000, ")" * 1000 + " }}"), ("{{ " + "[" * 1000, ""), ("{{ " + "-" * 20_000, "1 }}"), ("{% if 1 %}" * 3000, ""), ("{{ a" + ".a" * 9000, " }}"),
    ("$" + "(" * 40, "$"), ("$" + "{" * 2000, "}" * 2000 + "$"), ("$" + "\\sqrt" * 4000, "a$"), ("$" + "\\left(" * 800, "$"), ("$\\def\\a{((((}" + "\\a" * 20, "$"),
    ("".join("  " * n + "- a\n" for n in range(300)), ""), ("".join("> " * n + "a\n" for n in range(300)), ""),
    ("".join(f"$$a \\label{{e{n}}}$$\n\n{{{{ ref('e{n}') }}}}\n" for n in range(900)), ""),
]  # fmt: skip
"""What a body begins and ends with."""
FRONTS = [
    "[",
    "{",
    "- ",
    "? ",
    "&a ",
    "*a ",
    "!!a ",
    "'",
    '"',
    "a: ",
    "a\n",
    "a: b\n",
    "#",
    "%",
    "|",
    ">",
    "\t",
    "title: a\n",
    "- a: b\n  ",
]


def inputs() -> Iterator[tuple[str, str]]:
    """Yield each input with its target."""
    yield from (("body", run * (SIZE // len(run))) for run in RUNS)
    yield from (("body", begin + end) for begin, end in NESTS)
    yield from (("front", run * (SIZE // len(run))) for run in FRONTS)
    yield from (("front", f"tags: [{'a, ' * 20_000}]") for _ in range(1))
    for run in ("@article{a,", "{", "}", '"', "@", "a = {", ",", "#", "@comment{", "\\'", "$", "%", "@string{a = "):
        yield from ((name, run * (SIZE // len(run))) for name in ("bib", "taken in"))
    yield "bib", "@article{a, title = {" + "{" * 3000 + "a" + "}" * 3000 + "}, author = {B}, year = 2020}"
    yield "bib", "@article{a, title = {" + "\\textbf{" * 3000 + "a" + "}" * 3000 + "}, author = {B}, year = 2020}"
    yield "bib", "@article{a, title = {A}, author = {" + " and ".join(["B, C"] * 10_000) + "}, year = 2020}"
    yield from (("about", run * (SIZE // len(run))) for run in ("[", "{", "- ", "&a ", "a: b\n"))
    yield from (
        ("code", run * 5000)
        for run in (
            "(",
            "[",
            "-",
            "not ",
            "a+",
            "a.",
            "lambda:",
            "f'{",
            "if a:\n ",
            "'",
            "#",
            "a(",
            "class A: ",
            "@a\n",
        )
    )


def main() -> None:
    """Hand each input to its target in bounded memory, and say which take too long, or fail."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    import targets

    wrong = 0
    for name, text in inputs():
        try:
            with targets.in_time(name, len(text)):
                targets.TEXTS[name][0](text)
        except Exception as error:  # whatever it is, it is what the run is for
            wrong += 1
            print(f"{name} {text[:40]!r}: {type(error).__name__}: {str(error)[:200]}", flush=True)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()

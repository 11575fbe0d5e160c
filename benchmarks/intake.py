"""What taking in a library of papers costs, as whole commands, and reading it ever after: `python -m benchmarks.intake`.

The entries are made: names with accents as LaTeX writes them, abstracts, paths of files, as Zotero exports them.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.__main__ import project, seconds
from generator import bibliography, latex
from generator.load import load

WORDS = [
    "deep",
    "sparse",
    "learning",
    "neural",
    "graph",
    "kernel",
    "bayesian",
    "attention",
    "networks",
    "robust",
    "transfer",
    "optimal",
    "stochastic",
    "gradient",
    "metric",
    "vision",
    "language",
    "random",
    "convex",
    "latent",
    "causal",
    "implicit",
    "recurrent",
    "adversarial",
]
FAMILIES = [
    "Abel",
    "Brown",
    "{\\c{C}}elik",
    "Dvo{\\v{r}}{\\'a}k",
    "Eng",
    "Fox",
    "Garc{\\'i}a",
    "Huang",
    "Ito",
    "Jansen",
    "Kim",
    "Li",
    'M{\\"u}ller',
    "Ng",
]
GIVEN = ["Ada", "Ben", "Cleo", "Dan", "Eva", "Fay", 'G{\\"u}nter', "Hal", "Ida", "Jo"]


def library(size: int, draw: random.Random) -> str:
    """Return so many entries of BibTeX."""
    return "\n".join(_entry(n, draw) for n in range(size))


def _entry(n: int, draw: random.Random) -> str:
    people = (
        f"{draw.choice(FAMILIES)}, {draw.choice(GIVEN)} {draw.choice('ABCD')}." for _ in range(draw.randint(1, 8))
    )
    return f"""@article{{key{n},
  title = {{{{{draw.choice(WORDS).title()}}} {" ".join(draw.choices(WORDS, k=6))} {n}}},
  author = {{{" and ".join(people)}}},
  year = {{{draw.randint(1990, 2026)}}},
  month = jan,
  journal = {{Journal of {draw.choice(WORDS).title()} \\& {draw.choice(WORDS).title()}}},
  pages = {{{n}--{n + 9}}},
  doi = {{10.1234/made.{n}}},
  abstract = {{{" ".join(draw.choices(WORDS, k=150))} $x_{n}$ 50\\% of {{GANs}}}},
  keywords = {{{", ".join(draw.sample(WORDS, 3))}}},
  file = {{/home/me/Zotero/storage/{n}/Full Text.pdf}}
}}
"""


def csl(size: int, draw: random.Random) -> str:
    """Return so many items of CSL-JSON."""
    items = [
        {
            "id": f"item{n}",
            "type": "article-journal",
            "title": f"{' '.join(draw.choices(WORDS, k=6)).capitalize()} {n}",
            "container-title": f"Journal of {draw.choice(WORDS).title()}",
            "author": [{"family": f"Family{draw.randrange(300)}", "given": "Ada"} for _ in range(draw.randint(1, 8))],
            "issued": {"date-parts": [[draw.randint(1990, 2026), 1]]},
            "DOI": f"10.1234/made.{n}",
            "abstract": " ".join(draw.choices(WORDS, k=150)),
        }
        for n in range(size)
    ]
    return json.dumps(items, indent=1)


def take_in(root: Path, file: Path) -> None:
    command = [sys.executable, "-m", "generator.cli", "--root", str(root), "import", str(file)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=Path(__file__).resolve().parent.parent)


def reading(root: Path) -> float:
    """Return how long the project takes to be read by a process that has read nothing yet."""

    def fresh() -> None:
        for remembered in (bibliography.read_papers, bibliography._first_last, latex.plain, latex._decoded):
            remembered.cache_clear()
        load(root)

    return seconds(fresh)


def main() -> None:
    print("| entries | as | import | import again | load the project | load again |")
    print("|---|---|---|---|---|---|")
    for size in (100, 1000, 5000):
        for name, made in (("BibTeX", library), ("CSL-JSON", csl)):
            with tempfile.TemporaryDirectory() as folder:
                root, file = Path(folder) / "project", Path(folder) / "export"
                project(root, 8)
                file.write_text(made(size, random.Random(0)), encoding="utf-8")
                row = [
                    seconds(lambda root=root, file=file: take_in(root, file), repeats=1),
                    seconds(lambda root=root, file=file: take_in(root, file)),
                    reading(root),
                    seconds(lambda root=root: load(root)),
                ]
            print(f"| {size} | {name} | " + " | ".join(f"{one:.2f} s" for one in row) + " |", flush=True)


if __name__ == "__main__":
    main()

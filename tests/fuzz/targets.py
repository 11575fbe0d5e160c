"""Bytes or documents come in, of whatever kind; each loader is asked for pages or problems, and anything else is a defect.

The same targets serve Hypothesis (tests/test_fuzz.py) and the coverage-guided run (tests/fuzz/run.py, `make fuzz`).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import gzip
import io
import json
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import markdown
from conftest import BIB, EXPERIMENT, FRONT, METHOD, Project, stored_result

from generator import bibliography, bounded, safe
from generator import load as loader
from generator.check import check
from generator.expand import expand
from generator.filled import read as filled
from generator.fingerprint import Fingerprints
from generator.formulae import FormulaError, mathml
from generator.intake import files as intake
from generator.intake.markdown import import_notes
from generator.intake.shelf import Shelf, take_in
from generator.lab import recorded
from generator.lab.recorded import RecordedError
from generator.markup import with_drawings, without_drawings
from generator.normal import front as normal_front
from generator.normal import library as normal_library
from generator.normal.refusal import Refused
from generator.pack import MANIFEST, ForeignError, unpack
from generator.pages import assets, pages
from generator.render import render
from generator.schema import Library, Note, Result
from generator.site import Site
from generator.sources import HOME, MEMORY, Sources
from generator.store import Store
from generator.stored import is_result
from generator.web import surroundings

SECONDS = 2.0
"""Processor time that an input of up to 100 kB may take; a longer one in proportion."""
PAGE = 1.0
"""Seconds that a page may take Python-Markdown here before it is given up; in a build they are `bounded.SECONDS`."""
TOKENS = [
    line.encode("latin-1", "backslashreplace").decode("unicode_escape")
    for line in Path(__file__).with_name("tokens.txt").read_text(encoding="utf-8").split("\n")[1:-1]
]
EXTENSIONS = [
    "attr_list", "md_in_html", "footnotes", "admonition", "tables", "toc", "pymdownx.superfences", "pymdownx.highlight",
    "pymdownx.details",
]  # fmt: skip
"""Those of mkdocs.yml."""
HEAD = "\n".join(f"{key}: {value}" for key, value in FRONT.items())
ROW = {"slug": "toy", "kernel": "double", "function": "_forward", "target": "cuda:90", "dtype": "float32"}
KERNEL = {
    "oracle": "twice", "backward": True, "exact": False, "device": "Triton's interpreter", "example_shape": [2, 3],
    "bytes_moved": 48, "operations": 6,
    "parity": [{"dtype": "float32", "direction": "forward", "shapes": 2, "worst_absolute": 1e-7, "worst_share": 0.1, "holds": True}],
    "compiled": [{**ROW, "registers": 8, "spills": 0, "shared": 0, "widest_load": 16, "widest_store": 16}],
}  # fmt: skip
RESULT = stored_result(
    metrics={
        "two": {"value": 2.0, "unit": "s", "setting": "a toy"},
        "noisy": {"value": 2.0, "unit": "", "setting": "", "seeds": [1.0, 3.0]},
    },
    tables={"pairs": {"columns": ["x", "name"], "rows": [[1, "one"], [2.5, None]], "caption": ""}},
    figures={"line": {"files": ["line.svg"], "caption": "A line.", "alt": "a rising line"}},
    kernels={"double": KERNEL},
    run={"seconds": 1.0, "peak_memory": 1},
)
SPEED = {
    "format": 1, "gpu": "NVIDIA H200", "driver": "1", "cuda": "13", "torch": "2", "triton": "3", "date": "2026-11-21",
    "copy_bandwidth": 4e12, "peaks": {"float32": 5e13},
    "kernels": {"double": {"fingerprint": "0", "rows": [{
        "shape": [2, 3], "dtype": "float32", "direction": "forward", "ms": {"kernel": [1.0, 0.9, 1.1], "eager": [2.0, 1.9, 2.1]},
        "noise": 0.01, "bytes": 48, "operations": 6, "copy_share": 0.5, "date": "2026-11-21", "torch": "2", "triton": "3",
    }]}},
}  # fmt: skip
BODY = """# Head

Prose with $a_1$ and $$b \\label{eq}$$, [[other]], [@doe2020toy], {{ metric("two") }}.

{{ figure("line") }} {{ table("pairs") }} {{ source("method.py", "double") }} {{ kernel("double") }} {{ ref("line") }}
"""


class TooSlowError(Exception):
    """An input took more processor time than is allowed."""


@contextlib.contextmanager
def in_time(name: str, size: int) -> Iterator[None]:
    """Raise TooSlowError where a target takes longer than it may for so many bytes."""
    started = time.process_time()
    yield
    took, allowed = time.process_time() - started, SECONDS * max(1.0, size / 100_000)
    allowed += PAGE if name == "page" else 0.0
    if took > allowed:
        raise TooSlowError(f"{took:.1f} s for {size:,} bytes; {allowed:.1f} s are allowed")


@functools.cache
def project() -> Path:
    """Write the project that every target works in, once a process, and return where."""
    made = Project(Path(tempfile.mkdtemp(prefix="papernotes-fuzz-")))
    made.snippet("toy", EXPERIMENT, METHOD)
    made.write("snippets/toy/kernel.py", "def double(x):\n    return 2 * x\n\n\ndef _forward(x): ...\n")
    made.write(
        ".papernotes/line.svg", '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><path d="M0 0L9 9"/></svg>'
    )
    made.note("other")
    return made.root


@functools.cache
def library() -> Library:
    """Return what the loader makes of that project."""
    return loader.load(project())


def _result(data: dict[str, Any] = RESULT) -> Result:
    return Result(slug="toy", key="0" * 32, folder=project() / ".papernotes", data=data)


def _read(text: str) -> Note | list:
    return loader.read_note.__wrapped__(text, "toy", "notes/toy.md")


def _with(found: Note | list) -> Library:
    """Return the library with one note more, or with what is wrong with it."""
    if isinstance(found, Note):
        return library().model_copy(update={"notes": (*library().notes, found)})
    assert found, "a note that cannot be read has problems"
    return library().model_copy(update={"broken": {"toy": tuple(found)}, "problems": tuple(found)})


def note(text: str) -> None:
    """Load, check and render a library with one note of this text."""
    read = _read(text)
    whole = _with(read)
    check(whole)
    if isinstance(read, Note):
        site = Site(whole, {"toy": _result()})
        bodies = {one.slug: expand(one, site) for one in whole.notes}
        render(read, bodies["toy"], surroundings(site, bodies, site.newest)["toy"], site)


def body(text: str) -> None:
    """Load, check and render a note with this body."""
    note(f"---\n{HEAD}\n---\n{text}")


def site(text: str) -> None:
    """Make every page and file of a site with a note of this body."""
    whole = _with(_read(f"---\n{HEAD}\n---\n{text}"))
    made = Site(whole, {"toy": _result()})
    pages(made, filled(made))
    assets(made)


def page(text: str) -> None:
    """Turn the Markdown made of this body into HTML, as MkDocs does."""
    read = _read(f"---\n{HEAD}\n---\n{text}")
    if isinstance(read, Note):
        made = expand(read, Site(_with(read), {"toy": _result()})).markdown
        told: list[str] = []
        extension = bounded.Bounded(told.append, PAGE)
        plain, drawings = without_drawings(made)
        html = markdown.Markdown(extensions=[*EXTENSIONS, extension]).convert(plain)
        with_drawings(safe.page(html), drawings)


def front(text: str) -> None:
    """Read a note with this front matter."""
    _with(_read(f"---\n{text}\n---\nProse.\n"))


def bib(text: str) -> None:
    """Read a bibliography."""
    papers, problems = bibliography.read_papers(text, "notes/library.bib")
    assert all(isinstance(one.file, str) for one in problems)
    whole = library().model_copy(update={"papers": papers})
    made = Site(whole)
    pages(made, filled(made))


def formula(text: str) -> None:
    """Turn a formula into MathML."""
    for display in (True, False):
        with contextlib.suppress(FormulaError):
            mathml.__wrapped__(text, display)


def result(document: Any) -> None:
    """Make a site from a stored result, if it is taken for one."""
    if isinstance(document, dict) and is_result(document, ["line.svg"]):
        made = Site(
            _with(
                _read(f"---\n{HEAD}\nclaims: [{{says: a, metric: two, expect: {{near: 2, within: 1}}}}]\n---\n{BODY}")
            ),
            {"toy": _result(document)},
        )
        pages(made, filled(made))
        assets(made)


def speed(document: Any) -> None:
    """Read the recorded speeds of a kernel, and make the pages that show them."""
    path = project() / "snippets/toy/recorded/nvidia-h200.json"
    path.parent.mkdir(exist_ok=True)
    try:
        path.write_text(json.dumps(document), encoding="utf-8")
        with contextlib.suppress(RecordedError):
            recorded.read(path)
        made = Site(_with(_read(f"---\n{HEAD}\n---\n{BODY}")), {"toy": _result()})
        pages(made, filled(made))
    finally:
        path.unlink()


def sources(document: Any) -> None:
    """Take fingerprints with a memory of sources that somebody wrote."""
    store = Store(project() / ".papernotes")
    store.folder.mkdir(parents=True, exist_ok=True)
    store.sources.write_text(json.dumps(document), encoding="utf-8")
    taken = Fingerprints(project(), store.recall_sources())
    for snippet in library().snippets.values():
        assert len(taken.of(snippet).key) == 32
    taken.sources.memory()


def newest(document: Any) -> None:
    """Ask how snippets stand, with a memory of the newest run that somebody wrote."""
    store = Store(project() / ".papernotes")
    store.latest.mkdir(parents=True, exist_ok=True)
    (store.latest / "toy.json").write_text(json.dumps(document), encoding="utf-8")
    entry = store.recall("toy")
    store.last_good("toy")
    if entry:
        store.last_failure("toy", str(entry.get("key")))
        float(entry.get("seconds", 0.0))


def archive(data: bytes) -> None:
    """Unpack a file, its compression sound and what is in it anything."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "pack")
        for content in (data, gzip.compress(data, 1)):
            file.write_bytes(content)
            with contextlib.suppress(ForeignError):
                unpack(file, Store(Path(folder, "store")))
        assert {path.name for path in Path(folder).iterdir()} <= {"pack", "store"}


def about(text: str) -> None:
    """Read what mkdocs.yml says of the site."""
    path = project() / "about" / "mkdocs.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="replace")
    loader.load_about(path.parent)


def taken_in(text: str) -> None:
    """Take references, as BibTeX or CSL-JSON, into a bibliography."""
    with contextlib.suppress(intake.UnreadableError):
        found = intake.read_references(text.encode("utf-8", "replace"), "their.bib")
        shelf = Shelf(BIB)
        take_in(shelf, found, "their.bib", "to read")
        intake.written(shelf)


def imported(text: str) -> None:
    """Take in a note that another program wrote."""
    path = project() / "foreign" / "A note.md"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text.encode("utf-8", "replace"))
    before = {one.name for one in (project() / "notes").iterdir()}
    import_notes(path, project(), "somebody")
    for one in (project() / "notes").iterdir():
        if one.name not in before:
            one.unlink()


def normal(text: str) -> None:
    """Bring a note and a bibliography into normal form, twice: the second time changes nothing."""
    for form in (normal_front.normal, normal_library.normal):
        with contextlib.suppress(Refused):
            once = form(text)
            assert form(once) == once, "a normal form that is not normal"


def code(text: str) -> None:
    """Check, fingerprint and show a snippet of this code."""
    path = project() / "snippets/toy/method.py"
    path.write_bytes(text.encode("utf-8", "replace"))
    try:
        read = _read(f"---\n{HEAD}\n---\n{BODY}")
        check(_with(read))
        expand(read, Site(_with(read), {"toy": _result()}))
        Sources(project()).read(str(path))
    finally:
        path.write_text(METHOD, encoding="utf-8")


VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**400, 0.0, -0.0, 1e-320, 1e308, float("inf"), float("-inf"), float("nan"),
    "", "a", "../../etc/passwd", "/etc/passwd", "\x00", "\ud800", "inf", "nan", "<script>", "{{ a }}", "é" * 300, "a" * 20_000,
    [], {}, [[]], [None], {"": None}, {"a": {}}, [1] * 1000, [["a"] * 50] * 50,
)  # fmt: skip
"""What a document may hold where something else is meant."""


def changed(document: Any, choose: Callable[[int], int], times: int) -> Any:
    """Return a document with something in it replaced, removed or put in; `choose(n)` gives a number below n."""
    document = json.loads(json.dumps(document))
    for _ in range(times):
        holder, at = {"": document}, ""
        for _ in range(choose(7)):
            inner = holder[at]
            keys = (
                list(inner) if isinstance(inner, dict) else list(range(len(inner))) if isinstance(inner, list) else []
            )
            if not keys:
                break
            holder, at = inner, keys[choose(len(keys))]
        value = copy.deepcopy(VALUES[choose(len(VALUES))])
        kind = choose(4)
        if kind == 0 and at != "":
            del holder[at]
        elif kind == 1 and isinstance(holder, dict):
            holder[str(VALUES[choose(len(VALUES))])[:50]] = value
        elif kind == 2 and isinstance(holder, list):
            holder.append(value)
        else:
            holder[at] = value
        document = holder[""] if at == "" and holder.keys() == {""} else document
    return document


def _memory() -> dict[str, Any]:
    path = project() / "snippets/toy/experiment.py"
    about = path.stat()
    row = [[about.st_mtime_ns, about.st_ctime_ns, about.st_size, about.st_ino], {"run": "0"}, "0", [], [], []]
    return {"form": [MEMORY, str(project()), str(HOME)], "files": {str(path): row}}


def _packed() -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w") as made:
        said = {"form": "papernotes results", "layout": "v2", "results": {"0" * 32: "toy"}}
        for name, data in ((MANIFEST, said), (f"{'0' * 32}/result.json", RESULT), (f"{'0' * 32}/checksums.json", {})):
            content = json.dumps(data).encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return held.getvalue()


NEWEST = {
    "parts": {"a": "0"},
    "key": "k",
    "good_key": "k",
    "seconds": 1.0,
    "failure": {"slug": "toy", "outcome": "raised", "error": "e"},
}
TEXTS: dict[str, tuple[Callable[[str], None], tuple[str, ...]]] = {
    "note": (note, (f"---\n{HEAD}\n---\n{BODY}",)),
    "body": (body, (BODY,)),
    "page": (page, (BODY,)),
    "site": (site, (BODY,)),
    "front": (front, (HEAD,)),
    "bib": (bib, (BIB,)),
    "formula": (formula, (r"\frac{1}{2} \left(a_1^{2}\right)", r"\begin{aligned} a &= (b \\ &+ c] \end{aligned}")),
    "code": (code, (METHOD, EXPERIMENT)),
    "taken in": (
        taken_in,
        (
            BIB,
            '[{"id": "a", "type": "article-journal", "title": "A", "author": [{"family": "B"}], "issued": {"date-parts": [[2020]]}}]',
        ),
    ),
    "imported": (
        imported,
        (BODY, "---\ntags: [a]\n---\n# A\n\n![[b.png]] #tag [[Other note|x]] ==y==\n\n> [!note] z\n"),
    ),
    "normal": (normal, (f"---\n{HEAD}\n---\n{BODY}", BIB)),
    "about": (about, ("site_name: a\nsite_url: https://a.b\nplugins: [{papernotes: {discussion: a}}]\n",)),
}
"""What reads text, and what a run begins with."""
DOCUMENTS: dict[str, tuple[Callable[[Any], None], Callable[[], Any]]] = {
    "result": (result, lambda: RESULT),
    "speed": (speed, lambda: SPEED),
    "sources": (sources, _memory),
    "newest": (newest, lambda: NEWEST),
}
"""What reads JSON, and a sound document."""
BYTES: dict[str, tuple[Callable[[bytes], None], Callable[[], bytes]]] = {"archive": (archive, _packed)}


def spread(data: bytes) -> str:
    """Return bytes as text; where the first says so, repeated: what is slow shows in what is long."""
    text = data[1:].decode("utf-8", "replace")
    return text * min(20_000 // max(1, len(text)), 2 ** (data[0] % 16)) if data and data[0] % 8 == 7 else text


def feed(name: str, data: bytes) -> None:
    """Give bytes to a target in the form that it takes, and hold it to its time."""
    if name in TEXTS:
        text = spread(data)
        with in_time(name, len(text)):
            TEXTS[name][0](text)
    elif name in DOCUMENTS:
        call, sound = DOCUMENTS[name]
        numbers = iter(data)
        document = changed(sound(), lambda n: next(numbers, 0) % n, 1 + len(data) // 12)
        with in_time(name, len(data)):
            call(document)
    else:
        with in_time(name, len(data)):
            BYTES[name][0](data)


def seeds(name: str) -> list[bytes]:
    """Return what a run of a target begins with: the project's own files among it."""
    if name in DOCUMENTS:
        return [bytes(range(12)), bytes([1, 0, 1, 4, 3]), bytes([3, 1, 2, 0, 5, 9, 3])]
    if name in BYTES:
        return [BYTES[name][1]()]
    root = Path(__file__).resolve().parents[2]
    own = [path.read_text(encoding="utf-8") for path in sorted((root / "notes").glob("*.md"))[:8]]
    more = {
        "normal": own, "imported": own,
        "note": own, "body": [text.split("---\n", 2)[-1] for text in own], "front": [text.split("---\n")[1] for text in own if "---\n" in text],
        "bib": [(root / "notes/library.bib").read_text(encoding="utf-8")[:3000]], "about": [(root / "mkdocs.yml").read_text(encoding="utf-8")],
    }  # fmt: skip
    return [b"\x00" + text.encode() for text in (*TEXTS[name][1], *more.get(name, []))]


NAMES = (*TEXTS, *DOCUMENTS, *BYTES)

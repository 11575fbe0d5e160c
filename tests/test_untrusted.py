"""What a stranger's note may not do: to a reader's browser, to the project's files, to the build."""

import json
import os
import subprocess
import sys
import textwrap
import time

import pytest
from browsing import CHROMIUM, FLAGS, served
from conftest import BIB, ROOT, Project

from generator import drawings, policy, safe
from generator.expand import EMBED_LIMIT, expand
from generator.load import load
from generator.site import Site

RUN = "window.pwned=1"
HTML = [
    f"<script>{RUN}</script>",
    f"<ScRiPt/x>{RUN}</sCrIpT>",
    f'<img src=x onerror="{RUN}">',
    f"<img src=x onerror={RUN} //",
    f'<img/src="x"/onerror="{RUN}">',
    f'<svg onload="{RUN}"></svg>',
    f"<svg><script>{RUN}</script></svg>",
    f'<svg><animate onbegin="{RUN}" attributeName=x dur=1s></svg>',
    f'<svg><a xlink:href="javascript:{RUN}"><text>x</text></a></svg>',
    f'<svg><foreignObject><img src=x onerror="{RUN}"></foreignObject></svg>',
    f'<svg><style><img src=x onerror="{RUN}"></style></svg>',
    f'<math><mtext><table><mglyph><style><!--</style><img src=x onerror="{RUN}">',
    f'<math href="javascript:{RUN}">x</math>',
    f'<iframe srcdoc="<script>parent.{RUN[7:]}</script>"></iframe>',
    f'<iframe src="javascript:parent.{RUN[7:]}"></iframe>',
    f'<object data="javascript:{RUN}"></object>',
    f'<embed src="data:text/html,<script>{RUN}</script>">',
    f'<details open ontoggle="{RUN}"><summary>x</summary></details>',
    f'<body onload="{RUN}">',
    f'<input autofocus onfocus="{RUN}">',
    f'<video><source onerror="{RUN}"></video>',
    f'<form action="javascript:{RUN}"><button>x</button></form>',
    f'<a href="javascript:{RUN}">x</a>',
    f'<a href="jav&#x09;ascript:{RUN}">x</a>',
    f'<div style="position:fixed;inset:0;background:url(javascript:{RUN})">x</div>',
    '<style>body{display:none}@import "https://evil.example/x.css";</style>',
    '<link rel="stylesheet" href="https://evil.example/x.css">',
    '<meta http-equiv="refresh" content="0;url=https://evil.example/">',
    '<base href="https://evil.example/">',
    f'<noscript><p title="</noscript><img src=x onerror={RUN}>"></noscript>',
    f'<template><img src=x onerror="{RUN}"></template>',
    f'</title></textarea></script></style><img src=x onerror="{RUN}">',
    f'"><img src=x onerror="{RUN}">',
    f"'><img src=x onerror='{RUN}'>",
    f'--><img src=x onerror="{RUN}">',
    f']]><img src=x onerror="{RUN}">',
    '<div id="__config">{"base": "https://evil.example/"}</div>',
    f'<div class="pn-panel"><svg onload="{RUN}"></svg></div>',
    f'<div class="pn-card-figure"><svg><script>{RUN}</script></svg></div>',
    f'<div markdown="1" onclick="{RUN}">\n\n*x*\n\n</div>',
]
MARKDOWN = [
    f"[a](javascript:{RUN})",
    f"[a](JaVaScRiPt:{RUN})",
    f"[a](java&#115;cript:{RUN})",
    f"[a](java&Tab;script:{RUN})",
    f"[a](<java\tscript:{RUN}>)",
    f"[a](\x01javascript:{RUN})",
    f"[a](java\\script:{RUN})",
    f"[a](vbscript:{RUN})",
    f"[a](data:text/html,<script>{RUN}</script>)",
    f"[a][evil]\n\n[evil]: javascript:{RUN}",
    f"![a](javascript:{RUN})",
    "![a](https://evil.example/a.png)",
    "![a](//evil.example/a.png)",
    f"<javascript:{RUN}>",
    f'[a](notes.md){{: onclick="{RUN}" }}',
    f'## A heading {{: onmouseover="{RUN}" }}',
    f'## Another {{: data-toc-label="<img src=x onerror={RUN}>" }}',
    f'A paragraph.\n{{: onclick="{RUN}" style="position:fixed;inset:0" }}',
    f'*x*{{.a}} onclick="{RUN}"}}',
    f'## <img src=x onerror="{RUN}">',
    f'A note.[^1]\n\n[^1]: <img src=x onerror="{RUN}">',
    f'!!! note "<img src=x onerror={RUN}>"\n    <script>{RUN}</script>',
    f'??? note "<img src=x onerror={RUN}>"\n    <script>{RUN}</script>',
    f'| a |\n|---|\n| <img src=x onerror="{RUN}"> |',
    f"`x\n<script>{RUN}</script>\n`",
    f"```\n<script>{RUN}</script>\n~~~\n",
    f'``` {{ .python onclick="{RUN}" }}\nx\n```',
    f'``` python title="<img src=x onerror={RUN}>"\nx\n```',
    f'```"><img/src=x/onerror={RUN}>\nx\n```',
    f"    <script>{RUN}</script>",
    f"[[toy|<img src=x onerror={RUN}>]]",
    f'[[toy#"><img src=x onerror={RUN}>]]',
    f"[[<img src=x onerror={RUN}>]]",
    f"$<script>{RUN}</script>$",
    f"$$\\text{{<img src=x onerror={RUN}>}}$$",
    f"$$\\href{{javascript:{RUN}}}{{x}}$$",
    f"$\\label{{x}}$ $\\class{{a}} onclick={RUN}$",
    f"{{{{ figure('<img src=x onerror={RUN}>') }}}}",
    f"{{{{ metric('two', '<img src=x onerror={RUN}>') }}}}",
    f"{{{{ ref('<img src=x onerror={RUN}>') }}}}",
    f"{{{{ '<img src=x onerror={RUN}>' }}}}",
    f"{{% raw %}}<img src=x onerror={RUN}>{{% endraw %}}",
    f"<img src={{{{ metric('two') }}}} onerror={RUN}>",
    f"\x02wzxhzdk:0\x03<img src=x onerror={RUN}>\x02klzzwxh:0000\x03",
]
SVG = [
    f"<script>{RUN}</script>",
    f'<g onload="{RUN}"/>',
    f'<foreignObject><body xmlns="http://www.w3.org/1999/xhtml" onload="{RUN}"/></foreignObject>',
    f'<a xlink:href="javascript:{RUN}"><text x="1" y="9">x</text></a>',
    f'<set attributeName="onmouseover" to="{RUN}"/>',
    f'<animate onbegin="{RUN}" attributeName="x" dur="1s"/>',
    '<image xlink:href="https://evil.example/a.png" width="1" height="1"/>',
    f'<image xlink:href="data:image/svg+xml,&lt;svg onload={RUN}&gt;" width="1" height="1"/>',
    '<use xlink:href="https://evil.example/a.svg#x"/>',
    '<style>@import "https://evil.example/x.css"; * { fill: url(https://evil.example/x) }</style>',
    '<rect style="fill: url(https://evil.example/x#y); position: fixed" fill="url(//evil.example)"/>',
    '<g id="__config"/>',
    f"<title>&lt;img src=x onerror={RUN}&gt;</title>",
]
LEFT_OUT = [
    "<script>", "onload of <g>", "<foreignObject>", "<a>", "<set>", "<animate>", "xlink:href of <image>", "xlink:href of <use>",
    "<style>", "style fill", "style position", "fill of <rect>", "id of <g>",
]  # fmt: skip
EXPERIMENT = f"""
from generator.lab.figures import panel

EVIL = {HTML[2]!r}

def run(record):
    record.metric("two", 2.0, unit=EVIL, setting=EVIL)
    record.metric("word", EVIL, setting=EVIL)
    fig, ax = panel(EVIL, EVIL, EVIL)
    ax.plot([0, 1], [0, 2], label=EVIL)
    record.figure("line", fig, caption=EVIL, alt='" onmouseover="{RUN}" ' + EVIL)
    record.table("pairs", [{{EVIL: EVIL, "b": 1}}], caption=EVIL)
    record.log(EVIL)
    drawn = record.folder / "line.svg"
    drawn.write_text(drawn.read_text().replace("</svg>", {"".join(SVG)!r} + "</svg>"))
"""
EVIL_BIB = BIB + (
    f"@article{{evil2020,\n title = {{<script>{RUN}</script> {HTML[2]}}},\n author = {{{HTML[2]}, Jane}},\n year = {{2020}},\n"
    f' journal = {{{HTML[2]}}},\n url = {{javascript:{RUN}}},\n doi = {{10.1/"onclick="{RUN}}},\n note = {{</code></pre>{HTML[2]}}},\n}}\n'
)


def mkdocs(project):
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build"], cwd=project.root, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def front(text):
    return json.dumps(text)


def hostile_note(project, slug, body, evil=HTML[2]):
    project.note(
        slug,
        body=body,
        title=front(f"{slug} {evil} </title>"),
        author=front(evil),
        summary=front(f'">{evil}'),
        papers="[evil2020]",
        more=textwrap.dedent(f"""
        claims:
          - says: {front(evil)}
            where: {front(evil)}
            reported: true
          - says: {front(evil)}
            verdict: untested
            because: {front(evil)}
        updates:
          - date: 2026-11-22
            says: {front(evil)}
        """),
    )


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Build a project in which every field and every body holds what would run in a browser that is not protected."""
    project = Project(tmp_path_factory.mktemp("hostile"))
    project.write("notes/library.bib", EVIL_BIB)
    project.write("notes/index.md", f"---\ntitle: {front(HTML[2])}\n---\n# Home\n\n{HTML[0]}\n\n{{{{ cards() }}}}\n")
    embeds = (
        '{{ metric("two") }} {{ metric("word") }}\n\n{{ figure("line") }}\n\n{{ table("pairs") }}\n\n{{ claims() }}\n'
    )
    project.snippet("toy", EXPERIMENT)
    hostile_note(project, "toy", embeds + "\nSee [@evil2020] and [[html0]].\n")
    project.snippet("fails", f"def run(record):\n    print({HTML[2]!r})\n    raise ValueError({HTML[2]!r})\n")
    hostile_note(project, "fails", "Prose.\n")
    for number, payload in enumerate(HTML):
        hostile_note(
            project, f"html{number}", f"Before [[toy]] {payload} after.\n\n{payload}\n\n- {payload}\n", payload
        )
    for number, payload in enumerate(MARKDOWN):
        hostile_note(project, f"markdown{number}", f"Before.\n\n{payload}\n\nAfter.\n")
    project.write("notes/evil.html", f"<script>{RUN}</script>")
    project.write("notes/evil.markdown", f"<script>{RUN}</script>\n")
    project.write("notes/more/no_note.md", f"<script>{RUN}</script>\n")
    project.write("notes/assets/papernotes/search.js", RUN)
    project.write(
        "notes/drawn.svg", f'<svg xmlns="http://www.w3.org/2000/svg" onload="{RUN}"><script>{RUN}</script></svg>'
    )
    done = mkdocs(project)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return project, done.stderr


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium here")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


FOUND = """() => {
  const bad = [];
  for (const one of document.querySelectorAll("*")) for (const {name, value} of one.attributes) {
    const plain = value.replace(/[\\x00-\\x20]+/g, "").toLowerCase();
    if (/^on/i.test(name)) bad.push(`${one.nodeName} ${name}`);
    if (/^(xlink:)?(href|src|action|data|srcdoc|formaction)$/i.test(name) && /^(javascript|vbscript|data:text)/.test(plain)) bad.push(plain);
    if (name === "style" && /position|inset|javascript|evil/.test(plain) && one.closest("article")) bad.push(plain);
  }
  for (const one of document.querySelectorAll("article script, iframe, object, embed, base, article style:not(svg style), article link, [http-equiv=refresh], foreignObject"))
    bad.push(one.outerHTML.slice(0, 200));
  if (document.querySelectorAll("#__config").length > 1) bad.push("#__config");
  return window.pwned ? ["pwned", ...bad] : bad;
}"""


def test_no_page_of_a_hostile_project_runs_anything_even_without_its_policy(browser, hostile):
    project, _ = hostile
    site = project.root / "site"
    context = browser.new_context(bypass_csp=True)
    page, faults = context.new_page(), []
    page.on("dialog", lambda dialog: faults.append(dialog.message))
    page.on("request", lambda request: faults.append(request.url) if "evil.example" in request.url else None)
    with served(site) as base:
        names = [path.relative_to(site).as_posix() for path in sorted(site.rglob("*.html"))]
        assert len(names) > len(HTML) + len(MARKDOWN)
        for name in [*names, "files/toy/line.svg", "drawn.svg"]:
            page.goto(base + name, wait_until="load")
            if found := page.evaluate(FOUND):
                faults.append((name, found))
    context.close()
    assert faults == []


def test_a_script_smuggled_into_a_page_does_not_run_under_its_policy(browser, hostile):
    project, _ = hostile
    file = project.root / "site/toy/index.html"
    text = file.read_text(encoding="utf-8")
    smuggled = f'<img src="x" onerror="{RUN}"><a id="go" href="javascript:{RUN}">go</a><script>{RUN}</script>'
    (project.root / "site/smuggled").mkdir()
    (project.root / "site/smuggled/index.html").write_text(text.replace("<h1", smuggled + "<h1", 1), encoding="utf-8")
    with served(project.root / "site") as base:
        for policed in (True, False):
            context = browser.new_context(bypass_csp=not policed)
            page, blocked = context.new_page(), []
            page.on("console", lambda message, blocked=blocked: blocked.append(message.text))
            page.goto(f"{base}smuggled/", wait_until="load")
            page.evaluate("document.getElementById('go').click()")
            page.wait_for_timeout(100)
            assert page.evaluate("window.pwned === 1") != policed
            assert any("Content Security Policy" in one for one in blocked) == policed
            context.close()


def test_what_is_refused_is_named_with_its_line(hostile):
    _, said = hostile
    for line in (
        "notes/html0.md:19:1: HTML is not read here: <script",
        "a link to 'javascript:window.pwned=1'",
        "an attribute that is not allowed: {: onclick=",
        "a picture from another site",
        "notes/library.bib:9:1: entry 'evil2020': its url cannot be linked to",
        "notes/evil.html:1:1: a file of a kind that is not published",
        "notes/evil.markdown:1:1: a file of a kind that is not published",
        "notes/drawn.svg:1:1: holds onload of <svg>, <script>, left out",
        *(f"the figure 'line' holds {one}, which is left out" for one in LEFT_OUT),
    ):
        assert line in said, line


def test_nothing_is_published_that_was_not_read(hostile):
    site = hostile[0].root / "site"
    assert not (site / "evil.html").exists() and not (site / "evil").exists() and not (site / "more").exists()
    assert "pwned" not in (site / "assets/papernotes/search.js").read_text()
    assert "pwned" not in (site / "drawn.svg").read_text()


def test_every_page_has_its_policy_before_anything_else(hostile):
    for path in (hostile[0].root / "site").rglob("*.html"):
        head = path.read_text(encoding="utf-8").partition("<head>")[2]
        before = head.partition('<meta http-equiv="Content-Security-Policy"')[0]
        assert before.split() == ["<meta", 'charset="utf-8">'], path


# The text of notes


def said_of(project, body):
    project.note(body=body)
    library = load(project.root)
    assert not library.problems, library.problems
    made = expand(library.by_slug["toy"], Site(library))
    return made.markdown, [str(problem) for problem in made.problems]


JINJA = [
    ("{% for x in range(10**9) %}{{ x }}{% endfor %}", "a loop"),
    ("{{ 'a' * 10**10 }}", "an expression"),
    ("{{ 10**10**10 }}", "an expression"),
    ("{{ figure.__init__.__globals__ }}", "an attribute"),
    ("{{ ''['__class__'] }}", "an item"),
    ("{{ figure('a' * 10**10) }}", "an expression as an argument of figure()"),
    ("{{ figure(*[1]) }}", "* in the arguments of figure()"),
    ("{{ figure(name=range(9)) }}", "a call as an argument of figure()"),
    ("{{ 'a' | upper }}", "a filter"),
    ("{% set x = 1 %}", "an assignment"),
    ("{% macro f() %}{{ f() }}{% endmacro %}", "a macro"),
    ("{% include '/etc/passwd' %}", "an include"),
    ("{{ lipsum(n=10**9) }}", "an expression as an argument of lipsum()"),
    ("{{ self }}", "the name 'self'"),
    ("{{ figure('a') ~ 'b' }}", "an expression"),
]


@pytest.mark.parametrize(("body", "what"), JINJA, ids=[body for body, _ in JINJA])
def test_a_note_calls_embeds_with_constants_and_nothing_else_is_evaluated(project, body, what):
    begin = time.process_time()
    text, problems = said_of(project, f"Before.\n\n{body}\n\nAfter.\n")
    assert time.process_time() - begin < 5
    assert "Before." in text and "After." in text
    (problem,) = problems
    assert problem.startswith("notes/toy.md:11:1: Jinja:") and what in problem and "[jinja-not-allowed]" in problem


def test_brackets_without_end_are_a_problem_and_no_crash(project):
    _, problems = said_of(project, "{{ " + "(" * 100_000)
    assert len(problems) == 1 and "[jinja]" in problems[0]


def test_a_note_shows_a_bounded_number_of_embeds(project):
    text, problems = said_of(project, "{{ claims() }}\n" * (EMBED_LIMIT + 50))
    assert text.count('class="pn-claims"') == EMBED_LIMIT
    assert [problem.rpartition("[")[2] for problem in problems] == ["too-many-embeds]"]


def test_a_number_is_written_in_few_characters(toy):
    from test_render import PROVENANCE

    from generator.schema import Result

    data = {"metrics": {"two": {"value": 2.0}}, "tables": {}, "figures": {}, "provenance": PROVENANCE}
    toy.note(body='{{ metric("two", ".999999999f") }} {{ metric("two", ">999999999") }} {{ metric("two", ".3f") }}')
    library = load(toy.root)
    results = {"toy": Result(slug="toy", key="k", folder=toy.root, data=data)}
    made = expand(library.by_slug["toy"], Site(library, results))
    assert [problem.code for problem in made.problems] == ["embed-argument"] * 2 and ">2.000</span>" in made.markdown


def test_plain_html_addresses_comments_and_classes_are_what_they_were(project):
    body = (
        "H<sub>2</sub>O, <kbd>Ctrl</kbd>,<br> <https://example.org/?a=b&c=d>, <jane@example.org>, a < b, 1<2.\n{ .pn-lead }\n\n"
        '![a curve](more/curve.png){ width="300" } [a](https://example.org) [b](notes.md#x) [c](mailto:jane@example.org)\n\n'
        "`<script>` and {braces}.\n\n```html\n<script>\n```\n"
    )
    text, problems = said_of(project, body + "<!-- not\nseen -->\n")
    assert problems == []
    for part in body.replace("{braces}", "&#123;braces}").split("\n\n"):
        assert part.strip() in text
    assert "seen" not in text


def test_each_thing_refused_has_the_line_it_stands_on():
    _, refused = safe.text("one\n<!-- a\ncomment -->\n<div>bold</div>\n[a](javascript:x)\n\nx {: onclick=y }\n")
    assert [(down, code) for down, code, *_ in refused] == [
        (3, "html-not-allowed"), (3, "html-not-allowed"), (4, "link-not-allowed"), (6, "attribute-not-allowed"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("address", "may"),
    [
        ("https://example.org/a:b", True), ("notes.md#a:b", True), ("#a:b", True), ("../files/toy/method.py", True),
        ("mailto:a@example.org", True), ("?q=a:b", True), ("//example.org/a", True), ("javascript:x", False),
        (" java\nscript:x", False), ("JAVASCRIPT&colon;x", False), ("&#106;avascript:x", False), ("data:text/html,x", False),
        ("vbscript:x", False), ("file:///etc/passwd", False), ("\u200bjavascript:x", False), ("1:x", False),
    ],
)  # fmt: skip
def test_a_link_leads_to_the_web_to_mail_or_to_the_site(address, may):
    assert safe.leads_where_it_may(address) == may


@pytest.mark.parametrize(
    ("code", "settled_as"),
    [
        ("`x\n<script>y</script>\n`", "`x <script>y</script> `"),
        ("```\n<script>\n```~~", "```\n<script>\n```"),
        ("````\n```\n<script>\n````", "````\n```\n<script>\n````"),
    ],
)
def test_code_is_code_to_every_engine(project, code, settled_as):
    text, problems = said_of(project, f"Before.\n\n{code}\n")
    assert problems == [] and settled_as in text


# Front matter

FRONT = [
    "x: !!python/object/apply:os.system [id]", 'x: !!int ""', 'x: !!bool "q"', 'x: !!timestamp "q"', "x: !!binary x",
    "x: &a [b]\ny: *a", "x: 1" + ":1" * 20_000, "x: 1" + ":1" * 20_000 + ".5", "x: " + "9" * 40_000, "x: 0x" + "f" * 40_000,
    "\n".join(f"k{n}: x" for n in range(5_000)), "x: [" + "a, " * 16_000 + "]", "k" * 49_000 + ": x", "? [a]\n: b", "x: \x00",
    "tags: [" + "a, " * 16_000 + "]", "x: \ufeffy", "a\u2028b: c", "claims:\n" + "  - says: x\n" * 3_500, "added: 2026-99-99",
    *(f"claims: [{{says: x, metric: a, expect: {{{one}}}}}]" for one in (
        "near: .nan, within: 1", "below: .inf", "above: 1.0e+999", "equals: .nan", "between: [.nan, 1]", "equals: 0x" + "f" * 5000)),
]  # fmt: skip


@pytest.mark.parametrize("front", FRONT, ids=[one[:40] for one in FRONT])
def test_front_matter_is_a_note_or_a_problem_in_little_time(project, front):
    project.note(more=front)
    begin = time.process_time()
    library = load(project.root)
    assert time.process_time() - begin < 5
    assert "toy" in library.broken and 0 < len(library.problems) <= 101


# Files


def test_no_link_to_a_file_elsewhere_is_followed(toy, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside")
    (outside / "secret.py").write_text("secret = 1\n")
    (outside / "secret.png").write_text("secret")
    (outside / "more.md").write_text("secret")
    for link, target in {
        "notes/leak.md": "more.md", "notes/leak.png": "secret.png", "notes/leaks": ".", "notes/library2.bib": "more.md",
        "snippets/toy/leak.py": "secret.py", "snippets/leaks": ".", "snippets/toy/recorded": ".",
    }.items():  # fmt: skip
        (toy.root / link).symlink_to(outside / target)
    library = load(toy.root)
    said = {problem.file for problem in library.problems if problem.code == "leaves-project"}
    assert said == {
        "notes/leak.md", "notes/leak.png", "notes/leaks", "notes/library2.bib", "snippets/toy/leak.py", "snippets/leaks",
        "snippets/toy/recorded",
    }  # fmt: skip
    assert set(library.by_slug) == {"toy"} and set(library.snippets) == {"toy"} and not library.files
    assert library.snippets["toy"].files == ("experiment.py", "method.py")
    (toy.root / "notes/library.bib").unlink()
    (toy.root / "notes/library.bib").symlink_to(outside / "more.md")
    (toy.root / "notes/index.md").unlink()
    (toy.root / "notes/index.md").symlink_to(outside / "more.md")
    mkdocs(toy)
    site = toy.root / "site"
    assert not [path for path in site.rglob("*") if path.is_file() and "secret" in path.read_bytes().decode("latin1")]


@pytest.mark.parametrize(
    "name", ["../line.svg", "/etc/passwd", "a/b.svg", "line.svg/..", "LINE.SVG", "line.html", "", None]
)
def test_a_figure_is_a_file_of_its_own_result(tmp_path, name):
    (tmp_path / "result").mkdir()
    (tmp_path / "line.svg").write_text("<svg><text>secret</text></svg>")
    assert drawings.drawing(tmp_path / "result", name) == drawings.Drawing(
        "<svg></svg>", ("a file that is not its own",)
    )


def test_a_figure_is_no_link(tmp_path):
    (tmp_path / "secret.svg").write_text("<svg><text>secret</text></svg>")
    (tmp_path / "line.svg").symlink_to(tmp_path / "secret.svg")
    assert "secret" not in drawings.drawing(tmp_path, "line.svg").svg


def test_a_drawing_as_matplotlib_makes_it_is_kept_whole(tmp_path):
    from generator.lab.figures import panel, save

    fig, ax = panel("a <title> & $x^2$", "x", "y")
    ax.imshow([[0, 1], [2, 3]])
    ax.scatter([0, 1], [0, 1], hatch="//")
    ax.fill_between([0, 1], [0, 1], hatch="x")
    ax.legend(["a"])
    save(fig, tmp_path / "line.svg", salt="toy/line.svg")
    found = drawings.drawing(tmp_path, "line.svg")
    assert found.left_out == ()
    written = (tmp_path / "line.svg").read_text()
    for tag in ("<path", "<use", "<image", "<text", "<tspan", "<pattern", "<clipPath", "style="):
        assert found.svg.count(tag) == written.count(tag), tag


def test_a_drawing_as_other_programs_save_it_is_kept_whole():
    from io import StringIO

    from generator.lab.figures import panel

    fig, ax = panel("a", "x", "y")
    ax.plot([0, 1])
    saved = StringIO()
    fig.savefig(saved, format="svg")
    assert "<!DOCTYPE svg PUBLIC" in saved.getvalue()
    assert drawings.clean(saved.getvalue()).left_out == ()


@pytest.mark.parametrize(
    "svg",
    [
        '<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><svg>&b;</svg>',
        '<!DOCTYPE svg PUBLIC "a" "b" [<!ENTITY a "b">]><svg>&a;</svg>',
        '<!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg>&x;</svg>',
        "<svg><g></svg>", "<html><script>x</script></html>", "", "text", "<svg xmlns:svg='http://www.w3.org/2000/svg'><svg:script>x</svg:script>",
    ],
)  # fmt: skip
def test_what_is_no_drawing_is_none(svg):
    assert drawings.clean(svg).svg == "<svg></svg>"


# The policy


def test_only_the_themes_own_inline_scripts_are_let_in():
    given = policy.Policy()
    given.learn('<head><script>a=new URL("/",location)</script><script type="application/json">{}</script></head>')
    page = '<head><script>a=new URL("../..",location)</script></head><script>b</script><script src="c.js">d</script>'
    made = given.put(page)
    assert made.count("sha256-") == 1
    assert made.startswith('<head>\n<meta http-equiv="Content-Security-Policy"')
    assert given.put("<head></head><script>b</script>").count("sha256-") == 0


def test_while_serving_the_reloading_script_alone_is_let_in_besides():
    given = policy.Policy()
    page = (
        given.put("<html><head></head><body><script>livereload(0)</script>x")
        + "<script>var livereload = 1; livereload(1, 2);</script></body>"
    )

    def app(environ, start_response):
        start_response("200 OK", [("Content-Type", environ["kind"]), ("Content-Length", str(len(page)))])
        return [page.encode()]

    told = []
    (body,) = policy.while_serving(app)({"kind": "text/html"}, lambda *head: told.extend(head))
    digest = policy._digest(b"var livereload = 1; livereload(1, 2);")
    assert body.count(b"sha256-") == 1 and digest.encode() in body
    assert ("Content-Length", str(len(body))) in told[1]
    assert policy.while_serving(app)({"kind": "text/css"}, lambda *head: None) == [page.encode()]

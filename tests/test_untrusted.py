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
from generator.load import load
from generator.pages import pages
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

"""Notes of other programs come in: what is kept, what is said to be lost, and that nothing breaks or is overwritten."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from generator.build import build
from generator.check import check
from generator.cli import papernotes
from generator.drawings import clean
from generator.intake import names
from generator.intake.markdown import import_notes
from generator.load import load
from generator.normal import front
from tests.conftest import Project

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100c9fe92ef"
    "0000000049454e44ae426082"
)

VAULT = {
    "Attention.md": """\
---
title: "Attention: a reading"
aliases: [Self-attention]
tags: [ML/Transformers, activations, "#Deep_Learning"]
date: 2024-03-05
cssclass: wide
---
# Attention: a reading

The core is $\\mathrm{softmax}(QK^T)$ with ==queries==, #attention. It costs $5 and $6.
See [[Second Note]], [[Second Note|the second]], [[Second Note#Method and data|method]], [[A toy|existing]],
[[Nowhere|a dead one]], [[Self-attention|itself]], [[Second Note#^abc|block]], [[#Costs|below]].

%% a hidden
comment %%

![[figure one.png|300]] and ![[Second Note]] and ![[missing.png]] and ![[board.canvas]].

> [!tip]- Remember *this*
> - one
> - two with `code {{ x }}`
>
> $$
> a^2 + b^2
> $$
>
> ```python
> {{ "x" }}
>
> price = "$5"
> ```

- [ ] todo
  - nested {{ date }}
- [x] done $x_1$
1) one

## Costs

Templates: {{title}}, {% raw %}, {# note #} and {{ unclosed. <% tp.date.now() %>
Stray ` backtick, $HOME/bin $foo, $\\unknownmacro{x}$ and \\[a\\].

    indented {{ code }}

```dataview
TABLE file.name FROM #attention
```

| a | b |
|---|:-:|
| [[Second Note\\|cell]] | $x$ |

Cite [@doe2020toy], [@doe2020toy; @nobody1999], [see @doe2020toy, p. 3], @doe2020toy and [[@ghost]].
<script>alert(1)</script> <b>bold</b> [x](javascript:alert(1)) [md](Second%20Note.md) ![far](https://example.org/x.png)
A block here. ^abc
""",
    "Second Note.md": "Intro before. More with [[Attention]].\n\n## Method and data\n\ntext\n- a\n    - b\n",
    "zotero/Note-ABCD.md": """\
---
title: Annotations on Toy
$version: 123
citekey: doe2020toy
---
<!-- zn:begin -->
“A quote” ([Doe, 2020, p. 3](zotero://select/library/items/A)) ([pdf](zotero://open-pdf/library/items/X?page=3))
![](../img/figure%20one.png)
""",
    "plain.md": b"Just words\r\nwith CRLF.\r\n",
    "index.md": "# Welcome\n\nHome of it.\n",
    "badyaml.md": "---\ntitle: Foo: bar\ntags: [a\n---\nBody text.\n",
    "Same/Attention.md": "Another one of the name.\n",
    "img/figure one.png": PNG,
    "board.canvas": "{}",
    ".obsidian/app.json": "{}",
    "latin.md": "caf\u00e9".encode("latin-1"),
    "empty.md": "",
    "big.md": "x " * 1_100_000,
}


def vault(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


@pytest.fixture
def house(tmp_path: Path) -> Project:
    (tmp_path / "house").mkdir()
    project = Project(tmp_path / "house")
    project.note(more="tags: [activation]")
    return project


def brought(house: Project, files: dict[str, str | bytes]):
    folder = vault(house.root.parent / "vault", files)
    return import_notes(folder, house.root), folder


def body(house: Project, slug: str) -> str:
    return load(house.root).by_slug[slug].body.strip()


def taken(house: Project, text: str, **others: str) -> str:
    """Return what becomes of a text."""
    brought(house, {"One.md": text, **{f"{name}.md": more for name, more in others.items()}})
    return body(house, "one")


def test_a_whole_vault_comes_in_and_check_finds_no_problem_in_it(house):
    report, _ = brought(house, VAULT)
    assert len(report.added) == 7
    library = load(house.root)
    assert not check(library) and len(library.notes) == 8
    assert not build(house.root, execute=False).problems
    for note in library.notes:
        if note.slug != "toy":
            text = (house.root / note.file).read_text()
            assert front.normal(text) == text


def test_what_could_not_be_kept_is_listed_with_its_line(house):
    report, _ = brought(house, VAULT)
    lines = VAULT["Attention.md"].split("\n")
    said = {(item.line, item.name) for item in report.lost if item.file.endswith("vault/Attention.md")}
    for name, within in {
        "[[Nowhere|a dead one]]": "a dead one",
        "comment": "%% a hidden",
        "![[Second Note]]": "![[Second Note]]",
        "![[board.canvas]]": "canvas",
        "Templater command": "<%",
        "dataview block": "```dataview",
        "@nobody1999": "@nobody1999",
        "@ghost": "@ghost",
        "[x](javascript:alert(1))": "javascript",
        "<script>": "<script>",
        "^abc": "here. ^abc",
    }.items():
        line = next(n for n, one in enumerate(lines, start=1) if within in one)
        assert (line, name) in said, name
    assert any("canvas" in item.file for item in report.lost)
    assert any("cssclass" in item.name for item in report.lost)
    assert {(item.file.rpartition("/")[2], item.line) for item in report.unread} == {
        ("latin.md", 1), ("empty.md", 1), ("big.md", 1)
    }  # fmt: skip


def test_the_pages_of_a_vault_have_its_links_pictures_and_callouts(house):
    brought(house, VAULT)
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-q"], cwd=house.root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    page = (house.root / "site/attention/index.html").read_text()
    for link in ("../second_note/", "../second_note/#method-and-data", "../toy/", "#costs", "#ref-doe2020toy"):
        assert f'href="{link}"' in page, link
    assert 'src="../pictures/figure_one.png" width="300"' in page
    assert (house.root / "site/pictures/figure_one.png").read_bytes() == PNG
    assert '<details class="tip">' in page and "<mark>queries</mark>" in page
    assert "<code>code {{ x }}</code>" in page and "Templates: {{title}}, {% raw %}" in page
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)" in page
    inside = page[page.index('<details class="tip">') : page.index("</details>")]
    assert "<math" in inside and "price" in inside  # neither ends the callout


def test_front_matter_is_read_from_what_is_there(house):
    brought(house, VAULT)
    notes = load(house.root).by_slug
    attention, zotero = notes["attention"].front, notes["note_abcd"].front
    assert (attention.title, str(attention.added), attention.kind) == ("Attention: a reading", "2024-03-05", "essay")
    assert attention.tags == ("ml-transformers", "activation", "deep-learning", "attention")
    assert attention.summary == "The core is softmax(QK^T) with queries, attention."
    assert (zotero.kind, zotero.papers) == ("paper", ("doe2020toy",))
    assert notes["index_2"].front.title == "Welcome"
    assert notes["badyaml"].front.title == "Foo: bar"
    assert notes["attention_2"].front.title == "Attention"


def test_a_second_import_adds_nothing_and_writes_nothing(house):
    _, folder = brought(house, VAULT)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (house.root / "notes").rglob("*.*")}
    report = import_notes(folder, house.root)
    assert not report.added and len(report.there) == 7
    assert {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (house.root / "notes").rglob("*.*")
    } == before


def test_nothing_that_is_there_is_overwritten(house):
    mine = house.note("second_note", title="Mine").read_bytes()
    brought(house, {"Second Note.md": "Other words.\n"})
    assert (house.root / "notes/second_note.md").read_bytes() == mine
    assert "second_note_2" in load(house.root).by_slug


def test_a_note_that_was_edited_since_it_came_in_is_named_and_neither_copy_is_touched(house):
    _, folder = brought(house, {"One.md": "As it was. [[Two]]\n", "Two.md": "To [[One]].\n"})
    before = (house.root / "notes/one.md").read_bytes()
    (folder / "One.md").write_text("As it is now. [[Three]]\n")
    (folder / "Three.md").write_text("Back to [[One]].\n")
    report = import_notes(folder, house.root)
    assert [item.name for item in report.added] == ["three"]
    assert body(house, "three") == "Back to [[one|One]]."
    said = {item.name: str(item) for item in report.there}
    assert said["one"] == (
        "vault/One.md: one: the same title, in other words; remove notes/one.md to take it in anew, or give it another title"
    )
    assert (house.root / "notes/one.md").read_bytes() == before


def test_one_file_comes_in_alone_and_its_links_to_others_become_text(house):
    folder = vault(
        house.root.parent / "vault", {"One.md": "To [[Two]]. ![[x.png]]\n", "Two.md": "Two.\n", "x.png": PNG}
    )
    report = import_notes(folder / "One.md", house.root)
    assert [item.name for item in report.added] == ["one"]
    assert body(house, "one") == "To Two. ![x](pictures/x.png)"


def test_links_that_leave_the_folder_are_not_followed(house):
    folder = vault(house.root.parent / "vault", {"One.md": "![[secret.png]] ![](../secret.png)\n"})
    secret = house.root.parent / "secret.png"
    secret.write_bytes(PNG)
    os.symlink(secret, folder / "secret.png")
    os.symlink("/etc/hosts", folder / "outside.md")
    report = import_notes(folder, house.root)
    assert not (house.root / "notes/pictures").exists()
    assert any(item.file.endswith("outside.md") and "leaves the folder" in item.why for item in report.unread)


CASES = {
    "nested lists": ("text\n- a\n  - b\n\t- c\n", "text\n\n- a\n    - b\n        - c"),
    "a list in numbers after one in points": ("- a\n1) b\n", "- a\n\n<!-- -->\n\n1. b"),
    "tags of a line of their own": ("#one #two/three\n\nText #four.\n", "Text four."),
    "no heading without a space": ("#1 is first\n", "\\#1 is first"),
    "an id of pandoc's": ("## H {#id}\n", "## H &#123;#id}"),
    "attributes": ("*x*{ onclick=y }\n", "*x*&#123; onclick=y }"),
    "an unknown callout": ("> [!odd] T\n> b\n", '!!! note "T"\n\n    b'),
    "a quote": ("> a\nb\n", "> a\n> b"),
    "a bare address": ("(see https://a.b/c_d_e.)\n", "(see <https://a.b/c_d_e>.)"),
    "an address with braces": ("[a](http://b/{{c}})\n", "[a](http://b/%7B%7Bc%7D%7D)"),
    "Jinja in an alias": ("[[Two|{{ x }}]]\n", "[[two|`{{ x }}`]]"),
    "a link of HTML": ('<a href="http://b" onclick="x">t</a>\n', "[t](http://b)"),
    "marks of our own": ("a\ue0000\ue001b\n", "a0b"),
    "brackets": ("m[[0]] [[[x]]]\n", "m0 [x]"),
    "a formula in a list": ("- a\n  $$\n  x^2\n  $$\n", "- a\n    $\\displaystyle x^2$"),
    "a comment in code": ("`%% a %%` %%b%%c\n", "`%% a %%` c"),
    "headings moved down": ("# A\n\n# B\n\n## C\n", "## B\n\n### C"),
    "strokes and marks": ("~~a~~ ==b== a == b == c\n", "<del>a</del> <mark>b</mark> a == b == c"),
    "a reference": ("[a][r]\n\n[r]: http://b\n", "[a][r]\n\n[r]: http://b"),
}


@pytest.mark.parametrize(("text", "becomes"), CASES.values(), ids=CASES)
def test_markdown_of_other_houses_becomes_this_ones(house, text, becomes):
    assert taken(house, text, Two="Two.\n") == becomes


def test_a_picture_is_kept_once_and_one_of_the_same_name_gets_a_number(house):
    brought(
        house,
        {
            "One.md": "![[a/x.png]] ![[b/x.png]] ![[copy.png]]\n",
            "a/x.png": PNG,
            "copy.png": PNG,
            "b/x.png": PNG + b"more",
        },
    )
    shown = re.findall(r"pictures/[\w.]+", body(house, "one"))
    assert shown == ["pictures/x.png", "pictures/x_2.png", "pictures/x.png"]
    assert sorted(path.name for path in (house.root / "notes/pictures").iterdir()) == ["x.png", "x_2.png"]


@pytest.mark.parametrize(
    ("inside", "left_out"),
    [
        ("<script>1</script>", "<script>"),
        ('<path onclick="x"/>', "onclick of <path>"),
        ('<image href="http://a/b.png"/>', "href of <image>"),
        ("<foreignObject/>", "<foreignObject>"),
        ("<style>@font-face {src: url(http://a/b.woff2)}</style>", "<style>"),
    ],
)
def test_a_drawing_comes_in_without_what_no_drawing_needs_and_that_is_said(house, inside, left_out):
    drawing = f'<svg xmlns="http://www.w3.org/2000/svg">{inside}<path d="M0 0"/></svg>'
    report, _ = brought(house, {"One.md": "![[x.svg]]\n", "x.svg": drawing})
    assert body(house, "one") == "![x](pictures/x.svg)"
    kept = (house.root / "notes/pictures/x.svg").read_text()
    assert 'd="M0 0"' in kept and clean(kept).left_out == ()
    assert [item.why for item in report.changed if item.file == "x.svg"] == [f"{left_out}: left out of the drawing"]
    assert not check(load(house.root))
    brought(house, {"Two.md": "![[x.svg]]\n", "x.svg": drawing})
    assert [path.name for path in (house.root / "notes/pictures").iterdir()] == ["x.svg"]


@pytest.mark.parametrize("drawing", ["", "<svg", "GIF89a", '<!DOCTYPE svg [<!ENTITY a "b">]><svg>&a;</svg>'])
def test_what_is_no_drawing_does_not_come_in(house, drawing):
    report, _ = brought(house, {"One.md": "![[x.svg]] ![[y.svg]]\n", "x.svg": drawing, "y.svg": "<svg><path/></svg>"})
    assert body(house, "one") == "x.svg ![y](pictures/y.svg)"
    assert any(item.file == "x.svg" for item in report.lost)
    assert (house.root / "notes/pictures/y.svg").read_text() == "<svg><path/></svg>"


def test_pictures_are_exported_for_another_engine(house, tmp_path):
    brought(house, {"One.md": "![[x.png]]\n", "x.png": PNG})
    assert "pictures/x.png" in {asset.path for asset in build(house.root, execute=False).assets}


@pytest.mark.parametrize(
    ("written", "tag"),
    [
        ("AI/Deep_Learning", "ai-deep-learning"),
        ("GraphNets", "graph-nets"),
        ("GANs", "gans"),
        ("Überblick", "uberblick"),
        ("日本", ""),
    ],
)
def test_tags_are_written_as_the_house_writes_them(written, tag):
    assert names.tag_of(written) == tag


@pytest.mark.parametrize(
    ("stem", "slug"),
    [
        ("Self-Attention", "self_attention"),
        ("2024-01-02 Log", "note_2024_01_02_log"),
        ("日本", "note"),
        ("A" * 200, "a" * 80),
    ],
)
def test_slugs_are_made_of_file_names(stem, slug):
    assert names.slug_of(stem) == slug


def test_the_command_says_what_came_in_and_leaves_with_1_where_something_could_not_be_read(house):
    folder = vault(house.root.parent / "vault", {"One.md": "One.\n", "latin.md": b"\xe9"})
    done = CliRunner().invoke(papernotes, ["--root", str(house.root), "import", str(folder)])
    assert done.exit_code == 1
    assert "added 1 note" in done.output and "latin.md:1: not UTF-8" in done.output


PIECES = [
    "[[", "]]", "![[", "|", "#", "^a", "{{", "}}", "{%", "%}", "{#", "#}", "$", "$$", "`", "```\n", "\n", "\n\n", "- ",
    "  - ", "    ", "\t", "> ", "> [!note] T\n", "1. ", "a", "b c", "*", "_", "==", "~~", "%%", "<!--", "-->", "<b>",
    "</b>", "<script>", "<div>", "<img src=x.png>", "@doe2020toy", "[@doe2020toy]", "[@x; @y]", "[a](b.md)",
    "[a](http://x.y)", "![a](x.png)", "\\", "\\(", "\\)", "\\[", "\\]", "\\frac{1}{2}", "^2", "# H\n", "---\n", "x.png",
    "| a | b |\n|---|---|\n| c | d |\n", "Two", "One", "[^1]", "[^1]: f\n", "{: #x }", "!!! note\n", "<%", "%>", "<",
]  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join), st.lists(st.sampled_from(PIECES)).map("".join))
def test_whatever_a_note_holds_comes_in_without_a_problem_and_only_once(tmp_path_factory, one, two):
    root = tmp_path_factory.mktemp("any")
    (root / "house").mkdir()
    house = Project(root / "house")
    report, folder = brought(house, {"One.md": one, "Two.md": two, "x.png": PNG})
    assert not [item for item in report.unread if item.why != "empty"]
    assert not check(load(house.root))
    assert not build(house.root, execute=False).problems
    assert not import_notes(folder, house.root).added

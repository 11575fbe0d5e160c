"""A foreign note's body comes in; its blocks go out as the house's Markdown reads them.

markdown-it-py says what each block is, as CommonMark has it: Python-Markdown, which builds the pages, wants four spaces
in a nested list where CommonMark wants two, blank lines where it wants none, and knows no callouts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from generator.formulae import FormulaError, mathml
from generator.intake.inline import Inline
from generator.lift import Lifted
from generator.markup import ticks

NESTING = 100
_CALLOUT = re.compile(r"\[!([\w -]+)(?:\|[^\]]*)?\]([+-]?)[ \t]*([^\n]*)\n?")
_KINDS = {
    "abstract": "abstract", "summary": "abstract", "tldr": "abstract", "info": "info", "todo": "info", "tip": "tip",
    "hint": "tip", "important": "tip", "success": "success", "check": "success", "done": "success",
    "question": "question", "help": "question", "faq": "question", "warning": "warning", "caution": "warning",
    "attention": "warning", "failure": "failure", "fail": "failure", "missing": "failure", "danger": "danger",
    "error": "danger", "bug": "bug", "example": "example", "quote": "quote", "cite": "quote",
}  # fmt: skip
_QUERIES = {"dataview", "dataviewjs", "tasks", "query", "button", "templater", "excalidraw", "base", "zotero"}


@dataclass
class Body:
    """What has become of a body."""

    blocks: list[str] = field(default_factory=list)
    prose: str = ""
    """Its first paragraph."""

    @property
    def text(self) -> str:
        return "\n\n".join(block for block in self.blocks if block.strip())


def _parser() -> MarkdownIt:
    made = MarkdownIt("commonmark", {"maxNesting": NESTING}).enable("table").disable("reference")
    made.core.ruler.disable(["inline", "text_join"])  # what stands inside a block is read by our own rules
    return made


PARSER = _parser()


def code_lines(text: str) -> set[int]:
    """Return the numbers, from 0, of the lines that are code."""
    found: set[int] = set()
    for token in PARSER.parse(text):
        if token.type in ("fence", "code_block") and token.map:
            found.update(range(*token.map))
    return found


class Blocks:
    """Turns the blocks of one body into Markdown; `inline` turns what stands in them."""

    def __init__(
        self, inline: Inline, lifted: Lifted, origin: list[int], title: str, lost: Callable[..., None]
    ) -> None:
        self.inline = inline
        self.lifted = lifted
        self.origin = origin
        self.title = title
        self.lost = lost
        self.body = Body()
        self.down = 0

    def read(self, text: str) -> Body:
        tokens = PARSER.parse(text)
        if any(token.level >= NESTING - 1 for token in tokens):
            self.lost(1, "lists or quotes", f"nested more than {NESTING} deep: what lies deeper is left out")
        root = SyntaxTreeNode(tokens)
        headings = [node for node in root.walk() if node.type == "heading"]
        first = next((node for node in headings if node.tag == "h1"), None)
        self.drop = first if first and self._plain(first) == self.title else None
        self.down = int(any(node.tag == "h1" and node is not self.drop for node in headings))
        self.body.blocks = self._all(root.children, nested=False)
        return self.body

    def _plain(self, heading: SyntaxTreeNode) -> str:
        return heading.children[0].content.strip() if heading.children else ""

    def _all(self, nodes: Sequence[SyntaxTreeNode], nested: bool) -> list[str]:
        found: list[str] = []
        last = ""
        for node in nodes:
            make = getattr(self, f"_{node.type}", None)
            text = make(node, nested) if make else self._back(node.content, nested)
            if not text.strip():
                continue
            if last.endswith("_list") and node.type.endswith("_list"):
                found.append("<!-- -->")  # Python-Markdown would make one list of the two
            found.append(text)
            last = node.type
        return found

    def _line(self, node: SyntaxTreeNode, more: int = 0) -> int:
        at = (node.map[0] if node.map else 0) + more
        return self.origin[min(at, len(self.origin) - 1)]

    def _back(self, text: str, nested: bool) -> str:
        """Return a text with its formulae, code and links in their places."""

        def show(kind: str, piece: str) -> str:
            if kind == "display math" and nested:  # as a block it would end the list or quote that it stands in
                flat = " ".join(piece.split())
                try:
                    mathml(f"\\displaystyle {flat}", display=False)
                except FormulaError:
                    return f"`{flat}`"
                return f"$\\displaystyle {flat}$"
            if kind == "display math":
                return f"$$\n{piece}\n$$" if "\n" in piece else f"$${piece}$$"
            return f"${piece}$" if kind == "inline math" else piece

        return self.lifted.back(text, show)

    def _inline(self, node: SyntaxTreeNode, nested: bool, heading: bool = False) -> str:
        lines = [self._line(node, number) for number in range(node.content.count("\n") + 1)]
        return self._back(self.inline.convert(node.content, lines, heading=heading), nested)

    def _paragraph(self, node: SyntaxTreeNode, nested: bool) -> str:
        text = self._inline(node.children[0], nested)
        if not nested and not self.body.prose and not re.match(r"!\[|\[\^|\$\$|[|<]", text):
            self.body.prose = text
        return text

    def _heading(self, node: SyntaxTreeNode, nested: bool) -> str:
        if node is self.drop or not node.children:
            return ""
        text = " ".join(self._inline(node.children[0], nested=True, heading=True).split())
        return f"{'#' * min(6, int(node.tag[1]) + self.down)} {text}" if text else ""

    def _hr(self, node: SyntaxTreeNode, nested: bool) -> str:
        return "* * *"

    def _html_block(self, node: SyntaxTreeNode, nested: bool) -> str:
        content = node.content.rstrip("\n")
        lines = [self._line(node, number) for number in range(content.count("\n") + 1)]
        return self._back(self.inline.convert(content, lines), nested)

    def _fence(self, node: SyntaxTreeNode, nested: bool) -> str:
        language = re.match(r"[\w+#.-]*", node.info.strip())
        name = language[0] if language else ""
        if name.lower() in _QUERIES:
            self.lost(self._line(node), f"{name} block", "its answer is not in the file; the query is shown as code")
        around = ticks(node.content, 3)
        return f"{around}{name}\n{self._back(node.content, nested)}{around}"

    def _code_block(self, node: SyntaxTreeNode, nested: bool) -> str:
        if self.body.blocks and self.body.blocks[-1].startswith("[^"):
            return _indented(node.content.rstrip("\n"))
        return self._fence(node, nested)

    # Lists, quotes, callouts and tables.

    def _bullet_list(self, node: SyntaxTreeNode, nested: bool) -> str:
        return self._list(node, lambda number: "- ")

    def _ordered_list(self, node: SyntaxTreeNode, nested: bool) -> str:
        start = int(node.attrs.get("start", 1))
        return self._list(node, lambda number: f"{start + number}. ")

    def _list(self, node: SyntaxTreeNode, mark: Callable[[int], str]) -> str:
        tight = all(one.hidden for item in node.children for one in item.children if one.type == "paragraph")
        items = []
        for number, item in enumerate(node.children):
            text = ""
            for child in item.children:
                block = "\n\n".join(self._all([child], nested=True))
                near = tight and child.type in ("paragraph", "bullet_list", "ordered_list")
                text += ("\n" if near else "\n\n") + block if text else block
            text = re.sub(r"\A\[ \] ", "☐ ", re.sub(r"\A\[[xX]\] ", "☑ ", text))
            items.append(mark(number) + _indented(text).lstrip())
        return ("\n" if tight else "\n\n").join(items)

    def _blockquote(self, node: SyntaxTreeNode, nested: bool) -> str:
        first = node.children[0] if node.children else None
        if first is not None and first.type == "paragraph" and (found := _CALLOUT.match(first.children[0].content)):
            return self._callout(node, first.children[0], found)
        text = "\n\n".join(self._all(node.children, nested=True))
        return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))

    def _callout(self, node: SyntaxTreeNode, head: SyntaxTreeNode, found: re.Match[str]) -> str:
        kind = _KINDS.get(found[1].strip().lower(), "note")
        title = self.inline.convert(found[3], [self._line(head)]) or found[1].strip().capitalize()
        title = " ".join(self._back(title, nested=True).replace('"', "”").split())
        rest = head.content[found.end() :]
        lines = [self._line(head, number + 1) for number in range(rest.count("\n") + 1)]
        opening = [self._back(self.inline.convert(rest, lines), nested=True)] if rest.strip() else []
        others = [text for child in node.children[1:] for text in self._all([child], nested=True)]
        fold = {"": "!!!", "-": "???", "+": "???+"}[found[2]]
        return "\n\n".join([f'{fold} {kind} "{title}"', *map(_indented, [*opening, *others])])

    def _table(self, node: SyntaxTreeNode, nested: bool) -> str:
        rows = [row for part in node.children for row in part.children]
        lines = []
        for number, row in enumerate(rows):
            cells = [" ".join(self._inline(cell.children[0], nested=True).split()) for cell in row.children]
            lines.append("| " + " | ".join(cells) + " |")
            if number == 0:
                sides = [str(cell.attrs.get("style", "")).removeprefix("text-align:") for cell in row.children]
                rule = {"left": ":---", "right": "---:", "center": ":---:"}
                lines.append("| " + " | ".join(rule.get(side, "---") for side in sides) + " |")
        return "\n".join(lines)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line.strip() else "" for line in text.split("\n"))

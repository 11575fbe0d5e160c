"""The JSON Schema of front matter, for editors that complete and check it while one writes."""

from __future__ import annotations

import json
from typing import Any, get_args

from generator.schema import SLUG, FrontMatter, RelationKind

FILE = ".vscode/front-matter.schema.json"
"""Where editors of this project find it; `papernotes schema` writes the same."""

HINTS = {
    "title": "What the note is called: the paper's title, or one of your own.",
    "kind": "paper: on one or more papers; digest: gathers other notes; essay: no paper; project: how something was built.",
    "author": "Who wrote the note.",
    "added": "The day it was added, as in 2026-11-21.",
    "summary": "One sentence that says what it is, at most 200 characters.",
    "papers": "Keys of notes/library.bib.",
    "tags": "Lower-case words and hyphens; a tag in use is better than a new one.",
    "cover": "The figure on its card; slug/name for another note's.",
    "relations": "Links of a kind to other notes, as in [{extends: elu}].",
    "claims": "What the paper states, each with the metric that tests it and what it predicts, or reported: true.",
    "updates": "What changed since, oldest first, each with date: and says:.",
}
"""What an editor says of each key."""


def front_schema() -> dict[str, Any]:
    """Return the schema of what a note's front matter may hold; what two keys must agree on, `check` says."""
    found = FrontMatter.model_json_schema()
    slug = {"type": "string", "pattern": SLUG}
    short = {
        "type": "object",
        "properties": {kind: slug for kind in get_args(RelationKind)},
        "minProperties": 1,
        "maxProperties": 1,
        "additionalProperties": False,
    }
    for name, hint in HINTS.items():
        found["properties"][name] = {**found["properties"][name], "description": hint}
    definitions = found["$defs"]
    definitions["Relation"] = {"anyOf": [short, definitions["Relation"]], "description": "As in {extends: elu}."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **_without_null(found),
        "title": "Front matter of a note",
    }


def as_text() -> str:
    """Return the schema as the file that is published and that editors read."""
    return json.dumps(front_schema(), indent=1, ensure_ascii=False) + "\n"


def _without_null(part: Any) -> Any:
    """Leave out what only says that a key may be left out, and titles that repeat a key: an editor would offer them."""
    if isinstance(part, list):
        return [_without_null(one) for one in part]
    if not isinstance(part, dict):
        return part
    kept = {key: _without_null(value) for key, value in part.items() if not (key == "default" and value is None)}
    if isinstance(kept.get("title"), str):
        kept.pop("title")
    options = [one for one in kept.get("anyOf", ()) if one != {"type": "null"}]
    if len(options) == 1:
        kept.pop("anyOf")
        return {**options[0], **kept}
    return {**kept, "anyOf": options} if options else kept

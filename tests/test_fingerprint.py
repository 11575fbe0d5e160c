"""A result's key follows the meaning of the code, not its looks."""

import json

import pytest

from generator.fingerprint import Fingerprints, fingerprint, key_of, reasons
from generator.load import load


def parts(project):
    return fingerprint(load(project.root).snippets["toy"], project.root)


def change(project, path, old, new):
    file = project.root / path
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("return 2 * x", "return 2 * x  # twice"),
        ("return 2 * x", "return (\n        2 * x\n    )"),
        ('"""Return 2x."""', '"""Return x + x."""'),
        ("def double(x):", "\n\n# a comment\ndef double( x ):"),
    ],
)
def test_comments_docstrings_and_layout_do_not_count(toy, old, new):
    before = key_of(parts(toy))
    change(toy, "snippets/toy/method.py", old, new)
    assert key_of(parts(toy)) == before


def test_a_changed_function_of_an_imported_module_counts_and_is_named(toy):
    before = parts(toy)
    change(toy, "snippets/toy/method.py", "2 * x", "3 * x")
    assert reasons(before, parts(toy)) == ["snippets/toy/method.py: double changed"]


def test_a_module_imported_indirectly_counts(toy):
    toy.write("snippets/toy/deep.py", "N = 2\n")
    change(toy, "snippets/toy/method.py", "def double", "from .deep import N\ndef double")
    before = parts(toy)
    change(toy, "snippets/toy/deep.py", "2", "3")
    assert reasons(before, parts(toy)) == ["snippets/toy/deep.py: module level changed"]


def test_modules_that_import_each_other_are_no_trap(toy):
    toy.write("snippets/toy/one.py", "from . import two\n")
    toy.write("snippets/toy/two.py", "from snippets.toy import one, method\n")
    change(toy, "snippets/toy/method.py", "def double", "from . import one\ndef double")
    assert any("two.py" in part for part in parts(toy))


def test_prose_and_tests_do_not_count(toy):
    before = key_of(parts(toy))
    toy.note(body="Other prose.")
    toy.write("tests/snippets/test_toy.py", "x = 1")
    assert key_of(parts(toy)) == before


def test_a_declared_data_file_counts(toy):
    change(toy, "snippets/toy/experiment.py", "def run", 'DATA = ["d.csv"]\ndef run')
    toy.write("snippets/toy/d.csv", "1")
    before = parts(toy)
    toy.write("snippets/toy/d.csv", "2")
    assert reasons(before, parts(toy)) == ["snippets/toy/d.csv changed"]


def test_the_version_of_torch_counts_and_is_named(toy):
    now = parts(toy)
    assert now["torch"].startswith("2.")
    assert reasons({**now, "torch": "2.12"}, now) == [f"torch 2.12 → {now['torch']}"]


def test_a_file_that_is_no_python_has_a_key_all_the_same(toy):
    toy.write("snippets/toy/method.py", "def broken(:")
    first = key_of(parts(toy))
    toy.write("snippets/toy/method.py", "def broken(::")
    assert key_of(parts(toy)) != first


def test_what_is_remembered_of_another_place_is_forgotten(toy, monkeypatch):
    monkeypatch.setattr("generator.sources.RACY", -1.0)
    snippet = load(toy.root).snippets["toy"]
    first = Fingerprints(toy.root)
    key = first.of(snippet).key
    memory = json.loads(json.dumps(first.sources.memory()))
    again = Fingerprints(toy.root, memory)
    assert again.of(snippet).key == key and again.sources.memory() is None  # nothing had to be read
    for elsewhere in ([2, str(toy.root), "/elsewhere"], [2, "/elsewhere", memory["form"][2]]):
        moved = Fingerprints(toy.root, memory | {"form": elsewhere})
        assert moved.of(snippet).key == key and moved.sources.memory()


def test_the_engine_that_runs_a_snippet_counts_too(toy):
    assert any(part.startswith("generator/lab/nursery.py: ") for part in parts(toy))
    assert any(part.startswith("generator/lab/compile.py: ") for part in parts(toy))


def test_a_new_file_is_named_once(toy):
    before = parts(toy)
    toy.write("snippets/toy/extra.py", "def one(): ...\ndef two(): ...\n")
    change(toy, "snippets/toy/method.py", "def double", "from . import extra\ndef double")
    assert reasons(before, parts(toy)) == [
        "snippets/toy/extra.py appeared",
        "snippets/toy/method.py: module level changed",
    ]
    assert reasons(parts(toy), before)[0] == "snippets/toy/extra.py is gone"

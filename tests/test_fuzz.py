"""Every input gives pages or problems: never a traceback, never more than its time and memory.

The same inputs at every run; `make fuzz` looks for others, guided by coverage. An input that broke something is in MENDED.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import strategies
from hypothesis import HealthCheck, given, settings
from strategies import targets

FUZZ = Path(__file__).parent / "fuzz"
steady = settings(derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
"""No deadline of Hypothesis's: a target is held to processor time (`targets.in_time`), which a busy machine does not stretch."""
READ = {
    # What reads text -> (what it is given, how many).
    "note": (strategies.notes, 150),
    "body": (strategies.bodies, 120),
    "site": (strategies.bodies, 10),
    "page": (strategies.bodies, 12),
    "front": (strategies.fronts, 300),
    "bib": (strategies.bibliographies, 100),
    "taken in": (strategies.bibliographies, 150),
    "imported": (strategies.notes, 30),
    "normal": (strategies.notes, 60),
    "formula": (strategies.formulae, 400),
    "code": (strategies.texts, 15),
    "about": (strategies.fronts, 60),
}


def held_to_its_time(name, text):
    with targets.in_time(name, len(text)):
        targets.TEXTS[name][0](text)


@pytest.mark.parametrize("name", READ)
def test_any_text_gives_pages_or_problems(name):
    strategy, number = READ[name]

    @settings(steady, max_examples=number)
    @given(strategy)
    def holds(text):
        held_to_its_time(name, text)

    holds()


def test_each_target_is_tried():
    assert {*READ, *targets.DOCUMENTS, *targets.BYTES} == set(targets.NAMES)


@pytest.mark.parametrize("name", targets.DOCUMENTS)
def test_a_stored_document_of_another_form_is_refused_or_shown(name):
    @settings(steady, max_examples={"sources": 25, "newest": 200}.get(name, 100))
    @given(strategies.choices)
    def holds(data):
        targets.feed(name, data)

    holds()


@pytest.mark.parametrize("name", targets.BYTES)
def test_a_damaged_pack_is_refused_whole(name):
    @settings(steady, max_examples=100)
    @given(strategies.damaged(targets.BYTES[name][1]()))
    def holds(data):
        targets.feed(name, data)

    holds()


def test_inputs_of_100_kb_that_are_slow_deep_or_large_keep_to_their_time_and_memory():
    done = subprocess.run([sys.executable, str(FUZZ / "hostile.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


MENDED = [
    # (target, the smallest input that broke it, what it did)
    ("formula", "(" * 40, "never ended"),
    ("formula", "\\sqrt{" * 700 + "}" * 700, "crashed the process"),
    ("formula", "\\def\\a{((((((((}\\a\\a\\a\\a\\a", "never ended"),
    ("body", "> " * 40 + "a", "never ended"),
    ("body", "{#a" + ".a" * 40 + "!", "never ended"),
    ("body", "{{ " + "(" * 400, "RecursionError"),
    ("body", '{{ source("method.py", "double") }}{{ kernel("nothing") }}', "sound"),
    ("front", "title: !!int ''", "IndexError"),
    ("front", "title: !!bool x", "KeyError"),
    ("front", "added: !!timestamp x", "AttributeError"),
    ("about", "site_name: !!int ''", "IndexError"),
    ("about", "a: " * 0 + "[" * 3000, "RecursionError"),
    ("about", "added: 2026-99-99", "ValueError"),
    ("imported", "!!bool x\\right)__", "KeyError"),
    ("imported", "!!timestamp x**<!-- ", "AttributeError"),
    ("code", "a+" * 20_000 + "a", "RecursionError"),
]


@pytest.mark.parametrize(("name", "text", "did"), MENDED, ids=[f"{name}: {text[:20]!r}" for name, text, _ in MENDED])
def test_an_input_that_broke_something_once_does_not_again(name, text, did):
    held_to_its_time(name, text)


DOCUMENTS = [
    ("sources", lambda whole: whole | {"files": {path: [row[0]] for path, row in whole["files"].items()}}, "TypeError"),
    ("sources", lambda whole: whole | {"files": {path: row[:1] + [None] * 5 for path, row in whole["files"].items()}}, "TypeError"),
    ("result", lambda whole: {name: value for name, value in whole.items() if name != "metrics"}, "KeyError"),
    ("result", lambda whole: whole | {"figures": {"line": {"files": ["../../secret.svg"], "caption": "", "alt": ""}}}, "read it"),
    ("result", lambda whole: whole | {"log": ["\ud800"]}, "UnicodeEncodeError"),
    ("result", lambda whole: whole | {"metrics": {"two": {"value": 10**400, "unit": "", "setting": ""}}}, "OverflowError"),
    ("newest", lambda whole: whole | {"seconds": []}, "TypeError"),
    ("newest", lambda whole: whole | {"failure": {"slug": 1}}, "ValidationError"),
    ("speed", lambda whole: whole | {"copy_bandwidth": 1e-320}, "OverflowError"),
    ("speed", lambda whole: whole | {"kernels": {"double": {"fingerprint": "0", "rows": [whole["kernels"]["double"]["rows"][0] | {"bytes": float("inf")}]}}}, "OverflowError"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change", "did"), DOCUMENTS)
def test_a_document_that_broke_something_once_does_not_again(name, change, did):
    call, sound = targets.DOCUMENTS[name]
    call(change(sound()))

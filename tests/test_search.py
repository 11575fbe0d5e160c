"""The index of the search: whole once it is said to be made, and a clear word where it cannot be."""

import json

import pytest

from generator import search

PAGE = "<html lang=en><body><article><h1>{0}</h1><p>About the {0}.</p></article></body></html>"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Return a function that puts a shell script in Pagefind's place."""

    def put(script):
        path = tmp_path / "program"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PAGEFIND_BINARY_PATH", str(path))

    return put


def test_pages_are_indexed_by_their_addresses_and_what_the_site_does_not_use_is_left_out(tmp_path):
    search.index([(address, PAGE.format(address)) for address in ("adder/", "deep/mixer.html")], tmp_path / "index")
    assert json.loads((tmp_path / "index/pagefind-entry.json").read_text())["languages"]["en"]["page_count"] == 2
    assert len(list((tmp_path / "index/fragment").iterdir())) == 2
    assert not list(tmp_path.glob("index/*ui*")) and not list(tmp_path.glob("index/*highlight*"))
    assert all(path.stat().st_size for path in (tmp_path / "index").rglob("*"))


def test_the_same_pages_give_the_same_files(tmp_path):
    made = []
    for name in ("one", "two"):
        search.index([(f"{word}/", PAGE.format(word)) for word in ("adder", "mixer")], tmp_path / name)
        made.append({path.name: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()})
    assert made[0] == made[1]


def test_a_project_without_notes_has_an_index_too(tmp_path):
    search.index([], tmp_path / "index")
    assert (tmp_path / "index/pagefind-entry.json").stat().st_size


def test_settings_for_another_site_are_not_taken_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("PAGEFIND_SITE", str(tmp_path / "another"))
    monkeypatch.setenv("PAGEFIND_OUTPUT_PATH", str(tmp_path / "elsewhere"))
    search.index([("adder/", PAGE.format("adder"))], tmp_path / "index")
    assert (tmp_path / "index/pagefind-entry.json").exists()


def test_the_index_is_whole_when_it_is_said_to_be_made(tmp_path, program):
    program(f"sleep 0.5; echo late > {tmp_path}/last")
    search.index([], tmp_path / "index")
    assert (tmp_path / "last").read_text() == "late\n"


def test_a_program_that_fails_or_cannot_be_started_or_does_not_end_is_said(tmp_path, program, monkeypatch):
    program("echo no room >&2; exit 3")
    with pytest.raises(RuntimeError, match="cannot be built: no room"):
        search.index([], tmp_path / "index")
    program("exit 3")
    with pytest.raises(RuntimeError, match="Pagefind ended with status 3"):
        search.index([], tmp_path / "index")
    program("sleep 5")
    monkeypatch.setattr(search, "SECONDS", 0.1)
    with pytest.raises(RuntimeError, match="timed out"):
        search.index([], tmp_path / "index")
    monkeypatch.setenv("PAGEFIND_BINARY_PATH", str(tmp_path / "nothing"))
    with pytest.raises(RuntimeError, match="No such file"):
        search.index([], tmp_path / "index")

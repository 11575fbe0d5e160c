"""The store keeps whole results or none."""

import json
import os

import pytest
from conftest import stored_result

from generator.schema import Failure
from generator.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path)


def put(store, value=1):
    with store.scratch() as folder:
        (folder / "result.json").write_text(json.dumps(stored_result(value=value)))
        (folder / "line.svg").write_text("<svg/>")
        return store.put("toy", "key", folder, {"seconds": 1.0})


def test_what_was_put_comes_out(store):
    put(store)
    assert store.get("toy", "key").data["value"] == 1
    assert store.get("toy", "other") is None


def test_the_layout_on_disk_is_just_this(store):
    put(store)
    store.remember("toy", {"torch": "2.13"}, "key", 1.0)
    files = {path.relative_to(store.folder.parent).as_posix() for path in store.folder.rglob("*") if path.is_file()}
    assert files == {
        "v2/results/key/result.json",
        "v2/results/key/line.svg",
        "v2/results/key/checksums.json",
        "v2/results/key/run.json",
        "v2/latest/toy.json",
    }


@pytest.mark.parametrize("name", ["result.json", "line.svg", "checksums.json"])
@pytest.mark.parametrize("damage", ["change", "cut", "remove"])
def test_a_damaged_result_is_no_result_and_can_be_replaced(store, name, damage):
    folder = put(store).folder
    if damage == "remove":
        (folder / name).unlink()
    else:
        (folder / name).write_text("{}" if damage == "change" else "{")
    assert store.get("toy", "key") is None
    assert put(store, value=2).data["value"] == 2


def test_storing_the_same_result_twice_keeps_the_first(store):
    put(store, value=1)
    assert put(store, value=2).data["value"] == 1


def test_a_forced_run_replaces_what_was_stored(store):
    put(store, value=1)
    with store.scratch() as folder:
        (folder / "result.json").write_text(json.dumps(stored_result(value=2)))
        assert store.put("toy", "key", folder, {}, replace=True).data["value"] == 2
    assert list(store.folder.glob("tmp-*")) == []


def test_scratch_leaves_nothing_behind(store):
    with pytest.raises(RuntimeError), store.scratch() as folder:
        (folder / "x").write_text("x")
        raise RuntimeError
    assert list(store.folder.glob("tmp-*")) == []


def test_the_last_failure_is_remembered_for_its_key_alone(store):
    store.remember("toy", {"a": "1"}, "good", 1.0)
    store.remember("toy", {"a": "2"}, "bad", 1.0, Failure(slug="toy", outcome="raised", error="boom"))
    assert store.last_failure("toy", "bad").error == "boom"
    assert store.last_failure("toy", "good") is None
    assert store.recall("toy")["good_key"] == "good"


def test_a_torn_memory_is_forgotten_not_fatal(store):
    store.remember("toy", {"a": "1"}, "key", 1.0)
    (store.latest / "toy.json").write_text('{"parts": ')
    assert store.recall("toy") is None


def test_what_nothing_refers_to_is_bounded_and_the_oldest_goes_first(store):
    for n, key in enumerate(("oldest", "older", "kept", "newest")):
        with store.scratch() as folder:
            (folder / "toy").mkdir()
            (folder / "toy/result.json").write_text(json.dumps(stored_result()))
            (folder / "toy/large.svg").write_bytes(bytes(10_000))
            store.put("toy", key, folder / "toy", {})
        os.utime(store.results / key, (n, n))
    assert store.bound(10**6, {"kept"}, {"toy"}) == (0, 0)
    number, freed = store.bound(25_000, {"kept"}, {"toy"})
    assert number == 2 and 20_000 < freed < 21_000
    assert sorted(path.name for path in store.results.iterdir()) == ["kept", "newest"]
    assert store.bound(1, {"kept"}, {"toy"})[0] == 1  # what is referred to stays, whatever it takes
    assert store.get("toy", "kept")


def test_clean_leaves_what_another_build_is_writing(store):
    with store.scratch() as folder:
        (folder / "half").write_text("x")
        assert store.clean(set(), set()) == (0, 0)
        assert (folder / "half").exists()

"""A packed file comes back whole, or not at all."""

import gzip
import io
import json
import tarfile

import pytest
from conftest import stored_result

from generator.pack import MANIFEST, ForeignError, pack, unpack
from generator.store import Store

KEY = "0" * 32


@pytest.fixture
def store(tmp_path):
    """Return a store with one result."""
    store = Store(tmp_path / "here")
    with store.scratch() as scratch:
        (scratch / "toy").mkdir()
        (scratch / "toy/result.json").write_text(json.dumps(stored_result()))
        store.put("toy", KEY, scratch / "toy", {"seconds": 1.0})
    return store


@pytest.fixture
def packed(store, tmp_path):
    """Return the store's result as a packed file."""
    assert pack([store.get("toy", KEY)], tmp_path / "pack") == 1
    return tmp_path / "pack"


def rewritten(packed, change):
    """Return the packed file with its members changed: a list of (TarInfo, bytes)."""
    with tarfile.open(packed) as archive:
        members = [(one, archive.extractfile(one).read()) for one in archive.getmembers()]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for member, data in change(members):
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    packed.write_bytes(buffer.getvalue())
    return packed


def named(name, kind=tarfile.REGTYPE, leads=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, leads
    return member


def manifest(**changes):
    said = {"form": "papernotes results", "layout": "v2", "results": {KEY: "toy"}} | changes
    return lambda members: [(named(MANIFEST), json.dumps(said).encode()), *members[1:]]


def damaged(members):
    return [(one, data.replace(b"toy", b"boy") if one.name.endswith("result.json") else data) for one, data in members]


def also(member, data=b""):
    return lambda members: [*members, (member, data)]


def test_what_was_packed_comes_out_in_another_store(packed, tmp_path):
    there = Store(tmp_path / "there")
    assert unpack(packed, there) == 1
    assert there.get("toy", KEY).data["run"] == {"seconds": 1.0}
    assert unpack(packed, there) == 1  # twice is no matter


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (damaged, "is damaged"),
        (lambda members: members[:-1], "is damaged"),
        (lambda members: members[1:], "not a file of packed results"),
        (manifest(layout="v1"), "another version"),
        (manifest(form="something"), "not a file of packed results"),
        (manifest(results={KEY: "../../etc"}), "not a file of packed results"),
        (manifest(results={}), "does not name"),
        (also(named("../../escaped"), b"x"), "does not name"),
        (also(named(f"{KEY}/../../escaped"), b"x"), "does not name"),
        (also(named("/tmp/escaped"), b"x"), "does not name"),
        (also(named(f"{KEY}/link", tarfile.SYMTYPE, "/etc/passwd")), "holds what packed results never do"),
        (also(named(f"{KEY}/sub", tarfile.DIRTYPE)), "holds what packed results never do"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused_whole(packed, tmp_path, change, said):
    there = Store(tmp_path / "there")
    with pytest.raises(ForeignError, match=said):
        unpack(rewritten(packed, change), there)
    assert there.get("toy", KEY) is None
    assert [path for path in there.folder.rglob("*") if path.is_file()] == []
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("cut", [0, 1, 20, -1, -20])
def test_a_torn_or_strange_file_is_refused(packed, tmp_path, cut):
    packed.write_bytes(packed.read_bytes()[:cut] if cut else gzip.compress(b"no tar"))
    with pytest.raises(ForeignError):
        unpack(packed, Store(tmp_path / "there"))

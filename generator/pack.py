"""A store of results comes in; one file to carry elsewhere goes out, and such a file back into a store."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import tarfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from generator.schema import SLUG, Result
from generator.store import LAYOUT, Store, write_whole

FORM = "papernotes results"
MANIFEST = "papernotes.json"
MEMBER = re.compile(r"(?P<key>[0-9a-f]{32})/(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)")
MOST_FILES, MOST_BYTES = 200_000, 8 * 2**30
MOST_FILE, MOST_LIST = 256 * 2**20, 64 * 2**20
"""Bytes of one file, which is read whole to be verified, and of the list of all."""


class ForeignError(ValueError):
    """A file that is no pack of results, or a damaged one; the message says which and what to do."""


def pack(results: Iterable[Result], file: Path) -> int:
    """Write results into one file, the same bytes for the same results, and return how many there are."""
    results = sorted(results, key=lambda one: one.key)
    manifest = {"form": FORM, "layout": LAYOUT, "results": {one.key: one.slug for one in results}}
    buffer = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, compresslevel=6) as zipped,
        tarfile.open(fileobj=zipped, mode="w") as archive,
    ):
        _add(archive, MANIFEST, json.dumps(manifest, sort_keys=True).encode())
        for one in results:
            for path in sorted(one.folder.iterdir()):
                _add(archive, f"{one.key}/{path.name}", path.read_bytes())
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, buffer.getvalue())
    return len(results)


def unpack(file: Path, store: Store) -> int:
    """Take the results of a packed file into a store; all of them, or raise ForeignError and take none."""
    try:
        with file.open("rb") as raw, store.scratch() as scratch:
            results = _read(raw, scratch, file)
            for key, slug in results.items():
                if store.read(scratch / key, slug, key) is None:
                    raise ForeignError(f"{file}: the result of '{slug}' is damaged; pack it again")
            for key, slug in results.items():
                store.adopt(slug, key, scratch / key)
            return len(results)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise ForeignError(f"{file}: not a whole file of packed results ({error}); pack it again") from None


def _read(raw: IO[bytes], scratch: Path, file: Path) -> dict[str, str]:
    """Write the members under the scratch folder, none of them elsewhere, and return the results' slugs by key."""
    results: dict[str, str] = {}
    size = 0
    with gzip.open(raw) as unzipped, tarfile.open(fileobj=unzipped, mode="r|") as archive:
        for number, member in enumerate(archive):
            size += max(member.size, 0)
            named = MEMBER.fullmatch(member.name)
            if not member.isreg() or number > MOST_FILES or size > MOST_BYTES or member.size > MOST_FILE:
                raise ForeignError(f"{file}: holds what packed results never do ('{member.name}'); it is not taken in")
            data = archive.extractfile(member)
            assert data
            if number == 0:
                results = _manifest(member.name, data.read(MOST_LIST), file)
            elif not named or named["key"] not in results:
                raise ForeignError(f"{file}: holds '{member.name}', which its list does not name; it is not taken in")
            else:
                (scratch / named["key"]).mkdir(exist_ok=True)
                with (scratch / named["key"] / named["name"]).open("wb") as target:
                    shutil.copyfileobj(data, target)
        while unzipped.read(2**16):  # to its end, where its own checksum stands
            pass
    return results


def _manifest(name: str, data: bytes, file: Path) -> dict[str, str]:
    try:
        said = json.loads(data) if name == MANIFEST else {}
        results = {str(key): str(slug) for key, slug in said["results"].items()}
        sound = said["form"] == FORM and all(re.fullmatch(SLUG, slug) for slug in results.values())
    except (ValueError, KeyError, AttributeError, TypeError):
        sound = False
    if not sound:
        raise ForeignError(f"{file}: not a file of packed results; `papernotes pack FILE` makes one")
    if said.get("layout") != LAYOUT:
        raise ForeignError(f"{file}: packed by another version (its layout is not {LAYOUT}); pack it again")
    return results


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))

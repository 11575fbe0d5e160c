"""What other programs read: JSON that keeps its schema, CSV, the feed, BibTeX and RIS."""

import csv
import io
import json
import uuid
from xml.etree import ElementTree

import jsonschema
import pytest
import rispy

from generator import api, feeds
from generator.build import build
from generator.load import load, load_about
from generator.schema import About
from generator.site import Site

ATOM = {"a": "http://www.w3.org/2005/Atom"}
NAMES = {
    "notes": "added author changed claims kernels kind page papers relations slug summary tags title updates whole",
    "papers": "arxiv authors bibtex doi key notes readstatus title url venue year",
    "claims": "because expect holds id metric note says seeds setting unit value verdict where",
    "results": "figures key metrics note provenance tables",
}


@pytest.fixture
def site(toy):
    toy.note(
        "essay", title='An "essay", with a comma', kind="essay", papers="", added="2026-11-20",
        more="claims:\n  - says: 'Two lines,\n      and \"quotes\"'\n    reported: true\n",
    )  # fmt: skip
    built = build(toy.root)
    assert built.sound, built.problems
    return Site(built.library, built.runs.results)


@pytest.fixture
def documents(site):
    return {
        asset.path.removeprefix("api/v1/").removesuffix(".json"): json.loads(asset.text)
        for asset in api.files(site)
        if asset.path.endswith(".json")
    }


def test_every_document_keeps_the_published_schema(documents):
    schema, _ = documents.pop("schema"), documents.pop("front-matter.schema")
    kinds = {"index": "Index", "notes": "Notes", "papers": "Papers", "claims": "Claims", "results": "Results"}
    assert {*kinds, "kernels", "notes/toy", "notes/essay"} == set(documents)
    for name, document in documents.items():
        kind = kinds.get(name, "Kernels" if name == "kernels" else "Whole")
        one = {**schema, "$ref": f"#/$defs/{kind}"}
        jsonschema.Draft202012Validator.check_schema(one)
        jsonschema.validate(document, one)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**document, "version": 2}, one)


def test_the_names_of_version_1_are_these(documents):
    for document, names in NAMES.items():
        assert all(" ".join(sorted(entry)) == names for entry in documents[document][document])


def test_what_was_measured_and_judged_is_all_there(documents):
    whole = documents["notes/toy"]
    two, reported = whole["claims"]
    assert (two["verdict"], two["value"], two["metric"]) == ("reproduced", 2.0, "two")
    assert (reported["verdict"], reported["value"]) == ("reported only", None)
    assert whole["result"]["metrics"]["noisy"]["seeds"] == [1.0, 2.0, 3.0]
    assert whole["result"]["figures"]["line"]["files"][0].startswith("files/toy/")
    assert whole["text"].startswith("Measured {{ metric")
    assert documents["papers"]["papers"][0]["notes"] == ["toy"]
    assert documents["index"]["counts"] == {"notes": 2, "papers": 1, "claims": 3, "results": 1, "kernels": 0}


def test_every_address_in_the_index_and_the_notes_is_a_file_of_the_site(site, documents):
    made = {asset.path for asset in api.files(site)}
    assert set(documents["index"]["files"].values()) <= made
    assert {note["whole"] for note in documents["notes"]["notes"]} <= made


def test_a_claim_keeps_its_identifier_when_others_come_and_go(toy):
    def identifiers(more):
        toy.note(more=f"claims:\n{more}")
        (note,) = load(toy.root).notes
        return [f"{claim.id}" for claim in Site(load(toy.root)).judged(note)]

    two = "  - says: two is two\n    metric: two\n    expect: {equals: 2}\n"
    again = "  - says: two is above one\n    metric: two\n    expect: {above: 1}\n"
    said = "  - says: 1 % error\n    reported: true\n"
    first = identifiers(two + again + said)
    assert len(set(first)) == 3 and first[0] == "two"
    assert identifiers(two + said) == [first[0], first[2]]
    assert identifiers(said + two + again) == [first[2], first[0], first[1]]
    assert identifiers(said + said)[0] == first[2] and len(set(identifiers(said + said))) == 2


def test_claims_as_csv_read_back_as_they_were(site, documents):
    (text,) = [asset.text for asset in api.files(site) if asset.path.endswith("claims.csv")]
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["says"] for row in rows] == [claim["says"] for claim in documents["claims"]["claims"]]
    assert 'Two lines, and "quotes"' in [row["says"] for row in rows]
    assert [row["value"] for row in rows if row["note"] == "toy"] == ["2.0", ""]


def test_the_feed_gives_each_note_an_identity_that_lasts(site):
    feed = ElementTree.fromstring(feeds.atom(site))
    found = {entry.find("a:title", ATOM).text: entry for entry in feed.findall("a:entry", ATOM)}
    assert list(found) == ["A toy", 'An "essay", with a comma']
    ids = [entry.find("a:id", ATOM).text for entry in found.values()]
    assert len({*ids, feed.find("a:id", ATOM).text}) == 3
    assert all(uuid.UUID(one.removeprefix("urn:uuid:")) for one in ids)
    moved = Site(site.library, about=About(url="https://example.org/notes/"))
    again = ElementTree.fromstring(feeds.atom(moved))
    assert [entry.find("a:id", ATOM).text for entry in again.findall("a:entry", ATOM)] == ids
    links = [entry.find("a:link", ATOM).get("href") for entry in again.findall("a:entry", ATOM)]
    assert links[0] == "https://example.org/notes/toy/"
    assert [one.find("a:updated", ATOM).text for one in found.values()] == [
        "2026-11-21T00:00:00Z",
        "2026-11-20T00:00:00Z",
    ]


def test_a_paper_reads_back_from_ris_and_from_bibtex(site):
    made = {asset.path: asset for asset in feeds.files(site)}
    (paper,) = rispy.loads(made["papers/doe2020toy.ris"].text)
    assert paper["title"] == "A Toy Paper"
    assert paper["authors"] == ["Doe, Jane", "Smith, John", "The Team"]
    assert (paper["year"], paper["type_of_reference"]) == ("2020", "JOUR")
    assert paper["urls"] == ["https://arxiv.org/abs/2001.00001"]
    assert made["papers/doe2020toy.bib"].text.startswith("@article{doe2020toy,")
    assert made["library.bib"].source == site.library.root / "notes" / "library.bib"


def test_the_page_for_language_models_names_every_note_and_where_its_data_is(site):
    text = feeds.llms(site)
    assert text.startswith("# papernotes\n")
    for note in ("toy", "essay"):
        assert f"]({note}/)" in text and f"](api/v1/notes/{note}.json)" in text


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ("site_name: Mine\nsite_url: https://example.org/x\n", About(name="Mine", url="https://example.org/x/")),
        ("site_name: !ENV NAME\nuse_directory_urls: false\n", About(directory_urls=False)),
        ("hooks: !!python/name:x.y\nsite_description: So\n", About(description="So")),
        ("site_name: [", About()),
    ],
)
def test_the_command_line_reads_the_same_settings_as_mkdocs(tmp_path, text, about):
    (tmp_path / "mkdocs.yml").write_text(text)
    assert load_about(tmp_path) == about

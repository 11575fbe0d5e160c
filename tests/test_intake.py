"""Papers as other programs describe them: what becomes of their entries, and of the bibliography that they come into."""

import json
import time
from pathlib import Path

import pytest

from generator.bibliography import load_papers, read_papers
from generator.identifiers import arxiv_in, arxiv_of, doi_of
from generator.intake import bibtex, csl
from generator.intake.files import UnreadableError, open_shelf, read_references, save
from generator.intake.reference import Reference, entry, key_of, name_of
from generator.intake.report import Item
from generator.intake.shelf import Shelf, take_in
from generator.load import load

ROOT = Path(__file__).resolve().parent.parent

ZOTERO = r"""
@inproceedings{heDeepResidualLearning2016,
  title = {Deep {{Residual Learning}} for {{Image Recognition}} with {{ResNets}}},
  booktitle = {2016 {{IEEE Conference}} on {{Computer Vision}} and {{Pattern Recognition}} ({{CVPR}})},
  author = {He, Kaiming and Zhang, Xiangyu and {{The Team} of One}},
  year = {2016},
  month = jun,
  pages = {770--778},
  publisher = {IEEE},
  address = {Las Vegas, NV, USA},
  doi = {10.1109/CVPR.2016.90},
  urldate = {2023-05-11},
  abstract = {Deeper neural networks are more difficult to train. {We} gain 50\% \& more.},
  isbn = {978-1-4673-8851-1},
  keywords = {Complexity theory,to-read},
  file = {/home/me/Zotero/storage/ABC/He et al. - 2016.pdf}
}
"""
DBLP = r"""
@inproceedings{DBLP:conf/nips/OordVK17,
  author       = {A{\"{a}}ron van den Oord and
                  Oriol Vinyals 0001 and
                  Garc{\'{\i}}a M{\'a}rquez, Gabriel},
  title        = {Neural Discrete Representation Learning},
  pages        = {6306--6315},
  crossref     = {DBLP:conf/nips/2017},
  timestamp    = {Thu, 21 Jan 2021 15:15:21 +0100},
  biburl       = {https://dblp.org/rec/conf/nips/OordVK17.bib}
}

@proceedings{DBLP:conf/nips/2017,
  editor       = {Isabelle Guyon},
  title        = {Advances in Neural Information Processing Systems 30},
  year         = {2017}
}
"""
PREPRINTS = {
    "DBLP": "@article{DBLP:journals/corr/V17, author={A. Li}, title={T}, journal={CoRR}, volume={abs/1706.03762}, "
    "year={2017}, eprinttype={arXiv}, eprint={1706.03762}}",
    "Better BibTeX": "@misc{li, title={T}, author={Li, A.}, year={2017}, month=aug, number={arXiv:1706.03762}, "
    "eprint={1706.03762}, primaryclass={cs}, publisher={arXiv}, doi={10.48550/arXiv.1706.03762}, archiveprefix={arXiv}}",
    "biblatex": "@online{li, title={T}, author={Li, A.}, date={2017-06-12}, eprint={1706.03762v5}, eprinttype={arxiv}, "
    "eprintclass={cs.CL}, pubstate={prepublished}}",
    "Google Scholar": "@article{li, title={T}, author={Li, A.}, journal={arXiv preprint arXiv:1706.03762}, year={2017}}",
    "without a year": "@misc{li, title={T}, author={Li, A.}, eprint={1706.03762}, archiveprefix={arXiv}}",
}


def only(text, read=bibtex.references):
    (found,) = read(text, "file")
    return found


def written(text, read=bibtex.references):
    found = only(text, read)
    return entry(found, key_of(found, ()))


def test_a_zotero_entry_comes_in_in_the_style_of_the_house():
    assert (
        written(ZOTERO)
        == """@inproceedings{he2016deep,
  title = {Deep Residual Learning for Image Recognition with {ResNets}},
  author = {Kaiming He and Xiangyu Zhang and {The Team of One}},
  booktitle = {2016 IEEE Conference on Computer Vision and Pattern Recognition (CVPR)},
  publisher = {IEEE},
  year = {2016},
  pages = {770--778},
  doi = {10.1109/CVPR.2016.90},
  readstatus = {to read}
}"""
    )


def test_an_entry_has_from_its_volume_what_it_lacks_and_the_volume_is_no_paper():
    assert (
        written(DBLP)
        == """@inproceedings{oord2017neural,
  title = {Neural Discrete Representation Learning},
  author = {Aäron van den Oord and Oriol Vinyals and García Márquez, Gabriel},
  booktitle = {Advances in Neural Information Processing Systems 30},
  year = {2017},
  pages = {6306--6315}
}"""
    )


@pytest.mark.parametrize("catalogue", PREPRINTS)
def test_a_preprint_is_one_entry_however_a_catalogue_writes_it(catalogue):
    author = "A. Li"
    assert (
        written(PREPRINTS[catalogue])
        == f"""@article{{li2017t,
  title = {{T}},
  author = {{{author}}},
  journal = {{arXiv preprint}},
  year = {{2017}},
  eprint = {{1706.03762}},
  archiveprefix = {{arXiv}}
}}"""
    )


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        (r"{\"U}ber \'{e}t{\'e} \& {\ss} {\L}ukasz \v{S}koda {\c C}elik", "Über été & ß Łukasz Škoda Çelik"),
        (r"From $\mathbb{R}^{n}$ to \textit{all of it}: 50\% off", r"From $\mathbb{R}^{n}$ to all of it: 50% off"),
        ("{{Protected}} Title~with   {NASA}--{ESA}", "Protected Title with NASA–ESA"),
    ],
)
def test_latex_becomes_letters_and_formulae_stay(latex, text):
    assert only(f"@article{{a, title={{{latex}}}, author={{A B}}, year=2000}}").title == text


def test_what_is_written_is_read_as_the_same_paper(project):
    title = r"50% of \ell & #_ $\ell_{2}$ {braces} $@misc{x$ for $5 or \textbackslash"
    found = Reference("article", title, (name_of("{A & B_C}"), name_of("D, E")), 2020, more={"journal": "J & K #1"})
    shelf = Shelf("")
    key = shelf.add(found)
    project.write("notes/library.bib", shelf.written())
    papers, problems = load_papers(project.root / "notes/library.bib", project.root)
    assert not problems
    assert papers[key].title == r"50% of ell & #_ $\ell_{2}$ braces $@miscx$ for $5 or textbackslash"
    assert (papers[key].authors, papers[key].venue) == (("A & B_C", "E D"), "J & K #1")


@pytest.mark.parametrize(
    ("name", "surname", "written"),
    [
        ('Oord, A{\\"a}ron van den', "Oord", "Aäron van den Oord"),
        ("de la Cruz, Ana", "Cruz", "Ana de la Cruz"),
        ("King, Jr., Martin Luther", "King", "King, Jr., Martin Luther"),
        ("Soham De", "De", "Soham De"),
        ("{The OpenAI Team}", "openai", "{The OpenAI Team}"),
        ("Plato", "Plato", "Plato"),
    ],
)
def test_a_name_keeps_its_parts(name, surname, written):
    assert (name_of(name).surname, str(name_of(name))) == (surname, written)


def test_keys_are_those_of_the_house():
    papers, _ = load_papers(ROOT / "notes/library.bib", ROOT)
    keys = {
        key: key_of(Reference(title=one.title, authors=(name_of(one.authors[0]),), year=one.year), ())
        for key, one in papers.items()
        if not one.readstatus
    }
    assert sum(key == made for key, made in keys.items()) > 0.95 * len(keys)


def test_a_key_that_is_taken_gets_a_letter():
    found = Reference(title="The Title", authors=(name_of("A Li"),), year=2017)
    taken = {"li2017title"}
    assert key_of(found, taken) == "li2017titlea"
    taken |= {f"li2017title{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"}
    assert key_of(found, taken) == "li2017titleaa"


@pytest.mark.parametrize(
    "pasted",
    [
        "1706.03762", "1706.03762v5", "arXiv:1706.03762", "arXiv:1706.03762v7 [cs.CL]", "ARXIV: 1706.03762",
        "https://arxiv.org/abs/1706.03762", "http://arxiv.org/pdf/1706.03762v2.pdf", "arxiv.org/abs/1706.03762v1/",
        "https://www.arxiv.org/pdf/1706.03762?download=1", "https://doi.org/10.48550/arXiv.1706.03762",
        "10.48550/ARXIV.1706.03762", "https://export.arxiv.org/abs/1706.03762#", " 1706.03762\n",
        "https://ar5iv.labs.arxiv.org/html/1706.03762",
    ],
)  # fmt: skip
def test_an_arxiv_number_is_found_in_what_people_paste(pasted):
    assert arxiv_of(pasted) == "1706.03762"


@pytest.mark.parametrize(
    ("pasted", "number"),
    [
        ("hep-th/9901001v3", "hep-th/9901001"),
        ("https://arxiv.org/abs/math.GT/0309136", "math/0309136"),
        ("0704.0001", "0704.0001"),
        ("1713.03762", ""),
        ("10.1038/nature14539", ""),
        ("see 1706.03762", ""),
        ("https://evil.example/1706.03762", ""),
    ],
)
def test_old_numbers_are_numbers_and_others_are_not(pasted, number):
    assert arxiv_of(pasted) == number


def test_numbers_within_other_text():
    assert arxiv_in("arXiv:1706.03762 [cs]") == "1706.03762"
    assert arxiv_in("pages 1706.037621") == ""
    assert doi_of("https://doi.org/10.1007/978-3-319-10590-1\\_53.") == "10.1007/978-3-319-10590-1_53"
    assert doi_of("10.1002/(SICI)1097-4636(199823)43:4<338::AID-JBM2>3.0.CO;2-B") == (
        "10.1002/(SICI)1097-4636(199823)43:4<338::AID-JBM2>3.0.CO;2-B"
    )
    assert doi_of("10.1109/x{y\\") == "10.1109/x"
    assert doi_of("no doi") == ""


HOUSE = """% papers
@string{zz = "The Journal of Z"}

@comment{jabref-meta: databaseType:bibtex;}

@article{bb2000x,
  title={X}, author={B B}, year=2000, doi={10.1000/ABC}
}
% about the next
@article{dd2001y,
  title = {Y: the {Title}},
  author = {D, D.}, year = {2001}, eprint = {2001.00001v2},
}


@misc{ff2002z, title="Z", author="F F", year=2002}
@comment{jabref-meta: databaseType:bibtex;}
"""


def shelved(text, *references, status=""):
    shelf = Shelf(text)
    return shelf, take_in(shelf, list(references), "file.bib", status)


def paper(title="T", author="A Li", year=2000, **more):
    return Reference("article", title, (name_of(author),), year, **more)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_entry_comes_to_its_place_and_no_other_letter_changes(end):
    text = HOUSE.replace("\n", end)
    shelf, _ = shelved(text, *(paper(author=f"A {two}") for two in ("Gg", "Aa", "Ee", "Cc")))
    after = shelf.written()
    at = [
        after.index(key)
        for key in ("aa2000t", "bb2000x", "cc2000t", "% about", "dd2001y", "ee2000t", "ff2002z", "gg2000t")
    ]
    assert at == sorted(at)
    for key, one in shelf.new.items():
        after = after.replace(entry(one, key).replace("\n", end), "", 1)
    assert [line for line in after.split(end) if line] == [line for line in text.split(end) if line]
    assert after.count("\n") == after.count(end)


def test_what_is_already_there_is_not_added_twice():
    references = [
        paper(doi="10.1000/abc"),
        paper(arxiv="2001.00001"),
        paper("Y - The Title", "Dora D"),
        paper("New", doi="10.1/1", name="one"),
        paper("Other", doi="10.1/1"),
        paper("new", name="two"),
    ]
    _, report = shelved(HOUSE, *references)
    assert [item.name for item in report.added] == ["li2000new"]
    assert [item.why for item in report.there] == [
        "bb2000x has the same DOI, 10.1000/abc",
        "dd2001y has the same arXiv number, 2001.00001",
        "dd2001y has the same title and first author",
        "li2000new has the same DOI, 10.1/1",
        "li2000new has the same title and first author",
    ]


def test_one_title_of_two_authors_is_two_papers():
    _, report = shelved("", paper("Deep Learning", "Yann LeCun"), paper("Deep learning", "Ian Goodfellow"))
    assert len(report.added) == 2


def test_nothing_new_changes_nothing():
    shelf, _ = shelved(HOUSE, paper(doi="10.1000/abc"))
    assert shelf.written() == HOUSE


def test_what_cannot_be_read_is_named_by_line_and_the_rest_comes_in(project):
    text = (
        "@article{a, title={x\n\n@book{b, title={B}, year=2000}\n@book{c, author={A B}, title={C}, year=soon}\n"
        "@book{d, author={A B}, title={D}, year=2001}\n@book{d, author={A B}, title={E}, title={e}, year=2001}\n"
    )
    _, report = shelved("", *read_references(text.encode(), "file.bib"))
    assert [item.name for item in report.added] == ["b2001d", "b2001e"]
    assert [str(item) for item in report.unread] == [
        "file.bib:1: entry cannot be read; check its braces, quotes and commas",
        "file.bib:3: b: no author; add it",
        "file.bib:4: c: no year; add it",
    ]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ("readstatus={read}", "read"), ("readstatus={skimmed}", "reading"), ("keywords={ml, /unread}", "to read"),
        ("keywords={ml; Reading}", "reading"), ("keywords={_read, x}", "read"), ("keywords={reading comprehension}", ""),
    ],
)  # fmt: skip
def test_a_tag_or_jabrefs_field_says_how_far_the_reading_has_come(fields, status):
    assert only(f"@article{{a, title={{x}}, author={{A B}}, year=2000, {fields}}}").status == status


CSL = [
    {
        "id": "http://zotero.org/users/1/items/ABC", "type": "paper-conference", "title": "A <i>Style</i>-Based &amp; more",
        "container-title": "2019 Conference", "page": "4396-4405", "DOI": "10.1109/CVPR.2019.00453",
        "author": [{"family": "Karras", "given": "Tero"}, {"family": "Oord", "given": "A.", "non-dropping-particle": "van den"}],
        "issued": {"date-parts": [["2019", 6]]}, "abstract": "junk", "keyword": "gan, read",
    },
    {
        "id": "x", "type": "article", "title": "A Preprint", "publisher": "arXiv", "number": "arXiv:1706.03762",
        "author": [{"literal": "The Team"}], "issued": {"date-parts": [[2017]]}, "DOI": "10.48550/arXiv.1706.03762",
    },
    {"id": "y", "type": "thesis", "title": "Th", "publisher": "MIT", "author": [{"family": "Li"}], "issued": {"raw": "c. 1999"}},
    {"id": "z", "type": "webpage", "title": "No author", "issued": {"date-parts": [[2020]]}},
]  # fmt: skip


def test_csl_json_comes_in_as_bibtex_does():
    found = list(csl.references(json.dumps(CSL, indent=1), "file.json"))
    assert [entry(one, key_of(one, ())) for one in found[:3]] == [
        """@inproceedings{karras2019style,
  title = {A Style-Based \\& more},
  author = {Tero Karras and A. van den Oord},
  booktitle = {2019 Conference},
  year = {2019},
  pages = {4396--4405},
  doi = {10.1109/CVPR.2019.00453},
  readstatus = {read}
}""",
        """@article{team2017preprint,
  title = {A Preprint},
  author = {{The Team}},
  journal = {arXiv preprint},
  year = {2017},
  eprint = {1706.03762},
  archiveprefix = {arXiv}
}""",
        "@phdthesis{li1999th,\n  title = {Th},\n  author = {Li},\n  school = {MIT},\n  year = {1999}\n}",
    ]
    _, report = shelved("", *found)
    assert [str(item) for item in report.unread] == ["file.bib:65: z: no author; add it"]


@pytest.mark.parametrize(
    ("text", "line", "what", "came"),
    [
        ('[\n{"title": "T", "author": [{"family": "A"}], "issued": {"raw": "2000"}},\n{"title": }]', 3, "no JSON", 1),
        ("[1]", 1, "no object", 0),
        ("{}\n", 0, "", 1),
        ("[" * 100_000, 1, "nested too deeply", 0),
        (
            '[{"title": ["T"], "author": {"x": 1}, "issued": [[]], "keyword": {"a": [1]}, "DOI": 7, "page": null}]',
            0,
            "",
            1,
        ),
        ('[{"title": "T"', 1, "no JSON", 0),
    ],
)
def test_json_of_any_shape_gives_references_or_says_what_is_wrong(text, line, what, came):
    found = list(csl.references(text, "file.json"))
    wrong = [one for one in found if isinstance(one, Item)]
    assert len(found) - len(wrong) == came
    assert [(one.line, what in one.why) for one in wrong] == ([(line, True)] if what else [])


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "file:1: nothing in it"),
        (b"plain words", "neither BibTeX nor CSL-JSON"),
        (b"@article{a,\n title={\xff}}", "file:2: not UTF-8"),
    ],
)
def test_a_file_of_something_else_is_refused_whole(data, what):
    with pytest.raises(UnreadableError, match=what):
        read_references(data, "file")


def test_the_bibliography_keeps_its_mark_its_mode_and_its_link(project):
    real = project.write("shared.bib", b"\xef\xbb\xbf" + HOUSE.encode())
    real.chmod(0o640)
    link = project.root / "notes/library.bib"
    link.unlink()
    link.symlink_to(real)
    shelf = open_shelf(project.root)
    shelf.add(paper())
    save(shelf, project.root)
    assert link.is_symlink()
    assert real.read_bytes().startswith(b"\xef\xbb\xbf% papers")
    assert real.stat().st_mode & 0o777 == 0o640
    assert set(read_papers(real.read_text("utf-8-sig"), "shared.bib")[0]) == {
        "bb2000x",
        "dd2001y",
        "ff2002z",
        "li2000t",
    }


def test_a_bibliography_that_would_lose_a_paper_is_not_written(project, monkeypatch):
    shelf = open_shelf(project.root)
    shelf.add(paper())
    monkeypatch.setattr(Shelf, "written", lambda self: self.text[5:])
    before = (project.root / "notes/library.bib").read_bytes()
    with pytest.raises(UnreadableError, match="doe2020toy"):
        save(shelf, project.root)
    assert (project.root / "notes/library.bib").read_bytes() == before


def test_five_thousand_papers_cost_the_reader_of_a_bibliography_no_decoding(project, monkeypatch):
    from generator import latex

    decoded = []
    monkeypatch.setattr(latex, "_decoded", lambda value: decoded.append(value) or value)
    text = "\n".join(f"@article{{k{n}, title={{Title {n}}}, author={{A B}}, year=2000}}" for n in range(5000))
    project.write("notes/library.bib", text)
    started = time.perf_counter()
    assert len(load(project.root).papers) == 5000
    assert not decoded
    assert time.perf_counter() - started < 30  # it was 8 s with nothing else to do; the bound is for a busy machine

"""kallisto: files, graph, pseudoalignment, EM, the kernel, and agreement with the program itself."""

import gzip
import json
import random
import shutil
import subprocess
from itertools import pairwise

import numpy as np
import pytest
import torch

from snippets.kallisto import kernel, method

TWIN = str.maketrans("ACGTN", "TGCAN")
TOLERANCE = {torch.float32: (1.3e-6, 1e-5), torch.float64: (1e-7, 1e-7)}


def draw(rng, count):
    return "".join(rng.choices("ACGT", k=count))


def reverse(sequence):
    return sequence[::-1].translate(TWIN)


def isoforms(rng, genes, exon=(40, 250)):
    found = []
    for _ in range(genes):
        exons = [draw(rng, rng.randint(*exon)) for _ in range(rng.randint(3, 7))]
        for _ in range(rng.randint(1, 4)):
            found.append("".join(one for one in exons if rng.random() < 0.75) or exons[0])
    return found


def reads_of(rng, transcripts, count, length=75, error=0.0):
    reads = []
    weights = [rng.lognormvariate(0, 1.5) * len(t) for t in transcripts]
    for t in rng.choices(transcripts, weights, k=count):
        start = rng.randrange(max(1, len(t) - 199))
        read = t[start : start + 200]
        read = (reverse(read) if rng.random() < 0.5 else read)[:length]
        reads.append("".join(rng.choice("ACGT") if rng.random() < error else base for base in read))
    return reads


def as_fasta(transcripts, width=60):
    wrapped = ("\n".join(t[at : at + width] for at in range(0, len(t), width)) for t in transcripts)
    return "".join(f">t{number} a description\n{text}\n" for number, text in enumerate(wrapped))


def as_fastq(reads):
    return "".join(f"@r{number}\n{read}\n+\n{'@' * len(read)}\n" for number, read in enumerate(reads))


def write(path, text):
    (gzip.open if path.suffix == ".gz" else open)(path, "wb").write(text.encode())
    return path


# ---- files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["x.fa", "x.fa.gz"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_fasta_is_read_plain_or_gzip_over_several_lines_by_the_first_word(tmp_path, name, end):
    text = end.join([">one of two", "ACG", "tt", "", ">two", "NNA", ""])
    assert list(method.read_records(write(tmp_path / name, text))) == [("one", "ACGtt"), ("two", "NNA")]


def test_qualities_that_look_like_headers_are_not_headers(tmp_path):
    text = "@a\nACGT\n+\n@>+@\n@b\n\n+\n\n@c\nAC\nGT\n+c\n>>\n@@\n"
    assert list(method.read_records(write(tmp_path / "x.fq", text))) == [("a", "ACGT"), ("b", ""), ("c", "ACGT")]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "no transcripts"),
        ("ACGT\n", "record 1: expected a header"),
        (">a\nACGT\n>\nACGT\n", "record 2: it has no name"),
        (">a\n>b\nACGT\n", "record 1: it has no sequence"),
        (">a\nACGT\n>b\nAC GT\n", "record 2: ' ' is not a base"),
        (">a\nAC7T\n", "record 1: '7' is not a base"),
        (">a\nACGT\n>a\nACGG\n", "record 2: the name 'a' is taken"),
        (">a\nACGT\n+\nIIII\n", r"record 1: a '\+' line"),
    ],
)
def test_a_bad_fasta_is_named_with_its_record_and_fault(tmp_path, text, what):
    path = write(tmp_path / "bad.fa", text)
    with pytest.raises(ValueError, match=rf"bad\.fa: {what}"):
        method.quantify(path, path)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("@a\nACGT\n", r"record 1: no '\+' line"),
        ("@a\nACGT\n+\nIIII\n@b\nACGT\n+\nII\n", "record 2: the file ends after 2 of 4 quality values"),
        ("@a\nACGT\n+\nIIIIII\n", "record 1: 4 bases but 6 quality values"),
        ("@a\nACGT\n+\nIIII\nACGT\n", "record 2: expected a header"),
    ],
)
def test_a_bad_fastq_is_named_with_its_record_and_fault(tmp_path, text, what):
    fasta = write(tmp_path / "t.fa", ">a\n" + "ACGTTGCA" * 9 + "\n")
    with pytest.raises(ValueError, match=rf"bad\.fq: {what}"):
        method.quantify(fasta, write(tmp_path / "bad.fq", text))


def test_a_truncated_gzip_file_is_an_error(tmp_path):
    whole = write(tmp_path / "t.fa.gz", as_fasta([draw(random.Random(0), 5000)])).read_bytes()
    (tmp_path / "cut.fa.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged gzip"):
        list(method.read_records(tmp_path / "cut.fa.gz"))


@pytest.mark.parametrize("k", [1, 4, 30, 33])
def test_k_must_be_odd_and_fit_a_machine_word(k):
    with pytest.raises(ValueError, match="odd and from 3 to 31"):
        method.build_index(["ACGT" * 20], k)


@pytest.mark.parametrize(("mean", "sd"), [(0, 20), (200, 0), (float("nan"), 20)])
def test_fragment_mean_and_deviation_must_be_positive(tmp_path, mean, sd):
    with pytest.raises(ValueError, match="must be above 0"):
        method.quantify(tmp_path, tmp_path, fragment_mean=mean, fragment_sd=sd)


# ---- the graph ------------------------------------------------------------------------------------------------------


def test_odd_letters_become_the_draws_of_the_mersenne_twister_seeded_42():
    twister = np.random.MT19937()
    twister._legacy_seeding(42)
    want = "".join("ACGT"[int(x) & 3] for x in twister.random_raw(40))
    assert method.clean(["N" * 20, "acgu" + "rYk-*" * 4]) == [want[:20], "ACGT" + want[20:]]


def test_a_poly_a_tail_of_ten_is_cut_and_one_of_nine_stays():
    assert method.clean(["ACG" + "A" * 10, "ACG" + "a" * 9, "A" * 12]) == ["ACG", "ACG" + "A" * 9, ""]


def test_three_transcripts_make_the_contigs_one_draws_by_hand():
    transcripts = ["GATTCAGCCTACGGT", "GATTCAGTGGACGGT", "CCATCAGCCTACGGTAAGC"]
    index = method.build_index(transcripts, 5)
    texts = {
        transcripts[t][at : at + int(index.size[c]) + 4]: index.classes[c] for (c, t), (at, same) in index.met.items()
    }
    assert texts == {
        "GATTCAG": (0, 1),
        "TCAGCCTACGG": (0, 2),
        "ACGGT": (0, 1, 2),
        "TCAGTGGACGG": (1,),
        "CCATCAG": (2,),
        "CGGTAAGC": (2,),
    }


@pytest.mark.parametrize("k", [5, 7, 15, 31])
def test_every_kmer_has_the_class_of_the_transcripts_that_hold_it_on_either_strand(k):
    rng = random.Random(k)
    transcripts = [*isoforms(rng, 6), draw(rng, 40) * 5, "ACG" * 30, draw(rng, k - 1)]
    transcripts.append(reverse(transcripts[0])[5:])
    index = method.build_index(transcripts, k)
    holders = {}
    for t, sequence in enumerate(transcripts):
        for strand in (sequence, reverse(sequence)):
            for at in range(len(strand) - k + 1):
                holders.setdefault(strand[at : at + k], set()).add(t)
    assert len(index.kmers) == len({min(kmer, reverse(kmer)) for kmer in holders})
    text = "|".join(holders)
    contig, ahead, place, _ = (column[:: k + 1].tolist() for column in method.windows(index, text))
    for kmer, c, left, at in zip(holders, contig, ahead, place, strict=True):
        assert index.classes[c] == tuple(sorted(holders[kmer])), kmer
        assert 0 <= at < int(index.size[c]) and 0 <= left < int(index.size[c])
    assert int(index.size.sum()) == len(index.kmers)


# ---- pseudoalignment ------------------------------------------------------------------------------------------------


def all_kmers(transcripts, read, k):
    sets = [{t for t, s in enumerate(transcripts) if w in s or reverse(w) in s} for w in windows_of(read, k)]
    hits = [one for one in sets if one]
    return tuple(sorted(set.intersection(*hits))) if hits else ()


def windows_of(read, k):
    return [read[at : at + k] for at in range(len(read) - k + 1) if "N" not in read[at : at + k]]


def test_without_skipping_the_class_is_the_intersection_over_all_kmers_found():
    rng = random.Random(1)
    transcripts = isoforms(rng, 4)
    reads = reads_of(rng, transcripts, 60, error=0.02)
    reads += ["ACGT", "", "N" * 80, reads[0][:40] + "N" + reads[0][41:], draw(rng, 75)]
    index = method.build_index(transcripts, 21)
    got = method.pseudoalign(index, reads, skip=False)
    assert got == [all_kmers(transcripts, read, 21) for read in reads]


def test_skipping_gives_the_same_classes_on_reads_without_errors_with_fewer_look_ups():
    rng = random.Random(2)
    transcripts = isoforms(rng, 20)
    reads = reads_of(rng, transcripts, 500)
    index = method.build_index(transcripts, 31)
    assert method.pseudoalign(index, reads) == method.pseudoalign(index, reads, skip=False)
    looked, counted = method.visit([0] * 45, list(range(60, 15, -1)))
    assert looked == [0, 44] and counted == [0]


def test_an_error_in_the_middle_of_a_contig_is_jumped_over():
    contig = [0] * 5 + [method.MISSING] * 31 + [0] * 9
    looked, counted = method.visit(contig, list(range(44, -1, -1)))
    assert looked == [0, 44] and counted == [0]


def test_a_jump_that_lands_in_a_short_contig_looks_at_the_middle():
    contig = [0] * 10 + [1] * 35
    ahead = [20 - at for at in range(10)] + [40 - at for at in range(35)]
    looked, counted = method.visit(contig, ahead)
    assert looked[:3] == [0, 20, 10] and counted[:2] == [0, 10]


def test_a_read_and_its_reverse_complement_have_the_same_class():
    rng = random.Random(3)
    transcripts = isoforms(rng, 10)
    reads = reads_of(rng, transcripts, 200)
    index = method.build_index(transcripts, 31)
    assert method.pseudoalign(index, reads) == method.pseudoalign(index, [reverse(read) for read in reads])


def test_lower_case_reads_count():
    rng = random.Random(4)
    transcript = draw(rng, 400)
    index = method.build_index([transcript], 31)
    assert method.pseudoalign(index, [transcript[50:125].lower(), transcript[:20]]) == [(0,), ()]


@pytest.mark.parametrize(
    ("start", "forward", "backward"),
    [
        (0, True, False),
        (101, True, False),
        (102, False, False),
        (124, False, False),
        (125, False, True),
        (226, False, True),
    ],
)
def test_a_transcript_leaves_the_class_where_the_mean_fragment_would_stick_out(start, forward, backward):
    # Of 302 bases: forward, bases start … start + 199 and one to spare; backward, 200 up to the read's last base.
    transcript = draw(random.Random(5), 302)
    index = method.build_index([transcript], 31)
    read = transcript[start : start + 75]
    want = [(0,) if stays else () for stays in (forward, backward)]
    assert method.pseudoalign(index, [read, reverse(read)], [302], 200) == want
    assert method.pseudoalign(index, [read, reverse(read)]) == [(0,), (0,)]


def test_an_index_without_any_kmer_pseudoaligns_nothing():
    index = method.build_index(["ACG", ""], 31)
    assert method.pseudoalign(index, ["A" * 50, ""]) == [(), ()]


# ---- abundances -----------------------------------------------------------------------------------------------------


def test_effective_length_is_length_less_the_truncated_mean_plus_one():
    lengths = [5, 150, 200, 400, 5000]
    got = method.effective_lengths(torch.tensor(lengths), 200.0, 20.0)
    for length, value in zip(lengths, got.tolist(), strict=True):
        sizes = np.arange(min(length, 999) + 1)
        weight = np.exp(-0.5 * ((sizes - 200) / 20) ** 2)
        want = length - (sizes * weight).sum() / weight.sum() + 1
        assert value == pytest.approx(want if want >= 1 else length, rel=1e-12)


def loop(alpha, lengths, offsets, transcripts, counts):
    after = [0.0] * len(alpha)
    for e, count in enumerate(counts.tolist()):
        members = transcripts[offsets[e] : offsets[e + 1]].tolist()
        total = sum(float(alpha[t]) / float(lengths[t]) for t in members)
        for t in members:
            after[t] += count * (float(alpha[t]) / float(lengths[t])) / total if total else 0.0
    return torch.tensor(after, dtype=torch.float64) / float(counts.sum())


def problem(seed, transcripts=12, classes=30, most=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(0, most + 1, (classes,), generator=generator).clamp(max=transcripts)
    members = [torch.randperm(transcripts, generator=generator)[:size] for size in sizes.tolist()]
    alpha = torch.rand(transcripts, generator=generator, dtype=torch.float64)
    alpha[::4] = 0
    return (
        (alpha / alpha.sum().clamp_min(1e-9)).to(dtype),
        1 + 2000 * torch.rand(transcripts, generator=generator, dtype=torch.float64).to(dtype),
        torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)]),
        torch.cat([torch.zeros(0, dtype=torch.long), *members]),
        torch.randint(0, 9, (classes,), generator=generator) + (torch.arange(classes) == 0),
    )


@pytest.mark.parametrize("seed", range(4))
def test_an_em_step_is_what_a_loop_over_classes_gives(seed):
    arguments = problem(seed)
    torch.testing.assert_close(method.em_step(*arguments), loop(*arguments), rtol=1e-12, atol=1e-15)


def test_alpha_sums_to_one_where_every_class_has_weight():
    alpha, *rest = problem(1)
    rest[3] = rest[3] * (rest[1].diff() > 0)
    assert method.em_step(torch.full_like(alpha, 1 / 12), *rest).sum().item() == pytest.approx(1, abs=1e-14)


def test_classes_without_weight_give_nothing_and_without_reads_alpha_stays():
    lengths, offsets, transcripts = torch.ones(2), torch.tensor([0, 1, 2, 2]), torch.tensor([0, 1])
    alpha = torch.tensor([1.0, 0.0])
    assert method.em_step(alpha, lengths, offsets, transcripts, torch.tensor([3, 1, 0])).tolist() == [0.75, 0.0]
    assert method.em_step(alpha, lengths, offsets, transcripts, torch.tensor([0, 0, 0])).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("seed", range(5))
def test_the_likelihood_never_falls(seed):
    alpha, *rest = problem(seed, transcripts=20, classes=60)
    rest[3] = rest[3] * (rest[1].diff() > 0)
    alpha = torch.full_like(alpha, 1 / 20)
    curve = [method.log_likelihood(alpha, *rest)]
    for _ in range(300):
        alpha = method.em_step(alpha, *rest)
        curve.append(method.log_likelihood(alpha, *rest))
    curve = torch.stack(curve)
    assert (curve.diff() >= -1e-13 * curve.abs().max()).all()


def test_em_over_classes_is_em_over_reads_to_rounding():
    alpha, lengths, offsets, transcripts, counts = problem(3)
    members = [tuple(transcripts[a:b].tolist()) for a, b in pairwise(offsets.tolist())]
    reads = [m for m, count in zip(members, counts.tolist(), strict=True) for _ in range(count)]
    flat = torch.tensor([t for m in reads for t in m])
    each = torch.tensor([0, *map(len, reads)]).cumsum(0), flat, torch.ones(len(reads))
    a = b = torch.full_like(alpha, 1 / len(alpha))
    for _ in range(50):
        a, b = method.em_step(a, lengths, offsets, transcripts, counts), method.em_step(b, lengths, *each)
    torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-13)


def test_em_finds_the_shares_of_two_transcripts_of_one_length():
    # 30 reads of the first alone, 10 of the second alone, 60 of both: the likelihood is greatest at 3 : 1.
    offsets, transcripts = torch.tensor([0, 1, 2, 4]), torch.tensor([0, 1, 0, 1])
    alpha, _ = method.em(torch.full((2,), 500.0).double(), offsets, transcripts, torch.tensor([30, 10, 60]))
    torch.testing.assert_close(alpha, torch.tensor([0.75, 0.25]).double(), rtol=1e-9, atol=0)


def test_em_makes_more_than_fifty_rounds_and_stops_where_nothing_moves_by_a_hundredth():
    lengths, counts = torch.ones(2).double(), torch.tensor([3, 1])
    _, rounds = method.em(lengths, torch.tensor([0, 1, 2]), torch.tensor([0, 1]), counts)
    assert rounds == 53  # the reference counts from 0 and says 52
    _, *rest = problem(7, transcripts=40, classes=80, most=8)
    rest[3] = rest[3] * (rest[1].diff() > 0)
    alpha, rounds = method.em(*rest)
    assert 53 <= rounds < 10_000
    after, reads = method.em_step(alpha, *rest), rest[3].sum()
    assert ((after - alpha).abs() <= 0.01 * after)[after * reads > 0.01].all()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"alpha": torch.ones(2, 6)}, "alpha must have one dimension"),
        ({"alpha": torch.ones(12, dtype=torch.long)}, "alpha must be floating-point"),
        ({"lengths": torch.ones(3)}, "3 lengths for 12 transcripts"),
        ({"lengths": torch.zeros(12)}, "above 0"),
        ({"counts": torch.ones(3)}, "31 offsets for 3 classes"),
        ({"counts": -torch.ones(30)}, "not below"),
        ({"offsets": torch.ones(31)}, "offsets must be integers"),
        ({"offsets": torch.zeros(31, dtype=torch.long)}, "offsets must rise from 0"),
        ({"transcripts": None}, "transcripts must lie in 0 … 11"),
    ],
)
@pytest.mark.parametrize("em_step", [method.em_step, kernel.em_step])
def test_arguments_that_do_not_fit_are_refused(em_step, change, what):
    names = ("alpha", "lengths", "offsets", "transcripts", "counts")
    arguments = dict(zip(names, problem(0), strict=True))
    if "transcripts" in change:
        change = {"transcripts": torch.full_like(arguments["transcripts"], 12)}
    with pytest.raises(ValueError, match=what):
        em_step(**{**arguments, **change})


# ---- the program itself ---------------------------------------------------------------------------------------------

peer = pytest.mark.skipif(shutil.which("kallisto") is None, reason="kallisto is not installed: apt install kallisto")


def by_the_program(folder, fasta, fastq, k=31, mean=200, sd=20):
    quiet = {"check": False, "capture_output": True}
    subprocess.run(["kallisto", "index", "-i", folder / "index", "-k", str(k), fasta], **quiet)
    options = ["--single", "--plaintext", "-l", str(mean), "-s", str(sd), "-i", folder / "index", "-o", folder / "out"]
    subprocess.run(["kallisto", "quant", *options, fastq], **quiet)  # it fails where no read maps, after writing
    rows = (folder / "out" / "abundance.tsv").read_text().splitlines()[1:]
    info = json.loads((folder / "out" / "run_info.json").read_text())
    return {row.split("\t")[0]: float(row.split("\t")[3]) for row in rows}, info["n_pseudoaligned"]


def isoforms_of_genes(rng):
    transcripts = isoforms(rng, 60)
    return transcripts, reads_of(rng, transcripts, 4000, 75, 0.005)


def paralogs_with_errors(rng):
    transcripts = isoforms(rng, 8)
    transcripts += ["".join(rng.choice("ACGT") if rng.random() < 0.02 else b for b in t) for t in transcripts]
    return transcripts, reads_of(rng, transcripts, 4000, 100, 0.02)


def ns_short_reads_and_lower_case(rng):
    transcripts = isoforms(rng, 5)
    reads = reads_of(rng, transcripts, 2000, 60)
    reads = ["".join("N" if rng.random() < 0.01 else b for b in read) for read in reads]
    return [t.lower() for t in transcripts], [read[: rng.choice([10, 30, 31, 60])].lower() for read in reads]


def short_repetitive_and_odd_transcripts(rng):
    transcripts = [draw(rng, n) for n in (1, 20, 31, 32, 90, 180, 199, 200, 201, 250, 300)]
    transcripts += [draw(rng, 33) * 9, "ACG" * 100, draw(rng, 300) + "A" * 40, "A" * 300, transcripts[-1]]
    transcripts += [reverse(transcripts[-1]), transcripts[9][:120] + reverse(transcripts[9]), "NNRYK" + draw(rng, 400)]
    transcripts.append(transcripts[-1][100:] + "U" * 5 + draw(rng, 200))
    return transcripts, reads_of(rng, transcripts, 4000, 50, 0.01)


def reads_from_elsewhere(rng):
    return isoforms(rng, 2), [draw(rng, 75) for _ in range(50)]


CASES = (
    (isoforms_of_genes, 31, 200, 20),
    (paralogs_with_errors, 31, 200, 20),
    (paralogs_with_errors, 15, 120.5, 40),
    (ns_short_reads_and_lower_case, 21, 200, 20),
    (short_repetitive_and_odd_transcripts, 31, 200, 20),
    (short_repetitive_and_odd_transcripts, 7, 60, 5),
    (reads_from_elsewhere, 31, 200, 20),
)


@peer
@pytest.mark.parametrize(("case", "k", "mean", "sd"), CASES, ids=lambda value: getattr(value, "__name__", str(value)))
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_kallisto_itself_gives_the_same_counts(tmp_path, case, k, mean, sd, ending):
    transcripts, reads = case(random.Random(k + len(ending)))
    fasta = write(tmp_path / f"t.fa{ending}", as_fasta(transcripts))
    fastq = write(tmp_path / f"r.fq{ending}", as_fastq(reads))
    theirs, pseudoaligned = by_the_program(tmp_path, fasta, fastq, k, mean, sd)
    ours = method.quantify(fasta, fastq, k, mean, sd)
    assert list(ours) == list(theirs)
    assert sum(ours.values()) == pytest.approx(pseudoaligned, abs=1e-6)
    mine, other = np.array(list(ours.values())), np.array(list(theirs.values()))
    if pseudoaligned:
        assert np.corrcoef(mine, other)[0, 1] >= 0.999
    np.testing.assert_allclose(mine, other, rtol=1e-4, atol=1e-4)  # the program writes six digits


# ---- the kernel -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("transcripts", "classes", "most"),
    [(1, 1, 1), (7, 0, 1), (6, 3, 0), (900, 1, 900), (31, 67, 4), (1024, 127, 3), (1025, 1023, 2), (50, 3000, 5)],
)
def test_the_kernel_agrees_with_a_loop_in_float64(dtype, transcripts, classes, most):
    arguments = list(problem(11, transcripts, classes, most, dtype))
    got = kernel.em_step(*arguments)
    assert got.dtype == dtype
    if arguments[4].sum() == 0:
        assert torch.equal(got, arguments[0])
        return
    rtol, atol = TOLERANCE[dtype]
    torch.testing.assert_close(got.double(), loop(*arguments), rtol=rtol, atol=atol)


def test_one_giant_class_and_thousands_of_small_ones_together():
    alpha, lengths, offsets, transcripts, counts = problem(5, 700, 4000, 3)
    offsets = torch.cat([offsets, torch.tensor([len(transcripts) + 700])])
    transcripts, counts = torch.cat([transcripts, torch.arange(700)]), torch.cat([counts, torch.tensor([12345])])
    arguments = (alpha, lengths, offsets, transcripts, counts)
    torch.testing.assert_close(kernel.em_step(*arguments), loop(*arguments), rtol=1e-7, atol=1e-7)


def test_the_kernel_takes_strided_and_narrow_inputs():
    alpha, lengths, offsets, transcripts, counts = problem(6, 40, 90)
    want = loop(alpha, lengths, offsets, transcripts, counts)
    spread = [torch.stack([x, x + 1], 1)[:, 0] for x in (alpha, lengths, offsets, transcripts, counts)]
    assert not any(x.is_contiguous() for x in spread)
    torch.testing.assert_close(kernel.em_step(*spread), want)
    narrow = (alpha, lengths.float(), offsets.int(), transcripts.int(), counts.double())
    torch.testing.assert_close(kernel.em_step(*narrow), want, rtol=1e-6, atol=1e-9)


def test_nothing_behind_the_ends_of_the_inputs_is_read():
    arguments = problem(8, 40, 90)
    want = loop(*arguments)
    poison = (float("nan"), float("nan"), 10**6, 40, 10**6)  # transcript 40 is the NaN behind alpha
    over = [
        torch.cat([x, torch.full((600,), p, dtype=x.dtype)])[: len(x)] for x, p in zip(arguments, poison, strict=True)
    ]
    torch.testing.assert_close(kernel.em_step(*over), want)


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), 5e-324, 1e-310, 1e300])
def test_odd_values_of_alpha_come_out_as_in_torch(odd):
    arguments = list(problem(9, 20, 40))
    arguments[0] = arguments[0].clone()
    arguments[0][[1, 4]] = odd
    torch.testing.assert_close(kernel.em_step(*arguments), method.em_step(*arguments), equal_nan=True)


def test_without_reads_the_kernel_leaves_alpha():
    alpha, lengths, offsets, transcripts, counts = problem(2)
    assert torch.equal(kernel.em_step(alpha, lengths, offsets, transcripts, 0 * counts), alpha)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_op_passes_opcheck(dtype):
    torch.library.opcheck(torch.ops.papernotes.kallisto_em_step.default, problem(4, dtype=dtype))


def test_the_kernel_compiles_into_one_graph():
    arguments = problem(10)
    compiled = torch.compile(kernel.em_step, fullgraph=True)
    torch.testing.assert_close(compiled(*arguments), loop(*arguments))


def test_a_cpu_without_the_interpreter_falls_back_to_torch(monkeypatch):
    monkeypatch.setattr(kernel, "INTERPRETED", False)
    monkeypatch.setattr(kernel, "_em_step_op", None)
    arguments = problem(3)
    assert torch.equal(kernel.em_step(*arguments), method.em_step(*arguments))

"""kallisto: transcripts (FASTA) and single-end reads (FASTQ) come in; expected counts go out (Bray et al. 2016)."""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Num
    from torch import Tensor

MISSING, BROKEN = -1, -2  # a window of a read: no such k-mer in the index; not a k-mer at all (an N in it)
LONGEST_FRAGMENT = 1000
_DIGITS = bytes({"A": 0, "C": 1, "G": 2, "T": 3}.get(chr(byte).upper(), 4) for byte in range(256))


# ---- files ----------------------------------------------------------------------------------------------------------


def read_records(path: str | Path) -> Iterator[tuple[str, str]]:
    """Yield (first word of the header, sequence) of a FASTA or FASTQ file, gzip or plain.

    Raises ValueError that names the file, the record and what is wrong with it.
    """
    lines = _lines(Path(path))
    line = next(lines, None)
    for number in itertools.count(1):
        while line == "":  # blank lines between records
            line = next(lines, None)
        if line is None:
            return
        at = f"{path}: record {number}"
        if line[0] not in ">@":
            raise ValueError(f"{at}: expected a header that starts with '>' or '@', found {line[:30]!r}")
        header, parts = line, []
        line = next(lines, None)
        while line is not None and not line.startswith((">", "@", "+")):
            parts.append(line)
            line = next(lines, None)
        sequence = "".join(parts)
        if not sequence.isalpha() and (odd := set(sequence) - set("*-.")) and not all(map(str.isalpha, odd)):
            raise ValueError(f"{at}: {min(c for c in odd if not c.isalpha())!r} is not a base")
        if header[0] == "@":
            _skip_qualities(lines, at, line, len(sequence))
            line = next(lines, None)
        elif line is not None and line[0] == "+":
            raise ValueError(f"{at}: a '+' line in a record that starts with '>'; FASTQ headers start with '@'")
        yield (header[1:].split() or [""])[0], sequence


def _lines(path: Path) -> Iterator[str]:
    with path.open("rb") as raw:
        zipped = raw.read(2) == b"\x1f\x8b"
    with (gzip.open if zipped else open)(path, "rt", encoding="utf-8", errors="surrogateescape") as text:
        try:
            yield from (line.rstrip("\r\n") for line in text)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: damaged gzip file ({error})") from error


def _skip_qualities(lines: Iterator[str], at: str, plus: str | None, bases: int) -> None:
    # Qualities are counted, not parsed: they may begin with '@' or '>'.
    if plus is None or plus[0] != "+":
        raise ValueError(f"{at}: no '+' line after the bases")
    qualities = len(next(lines, ""))
    while qualities < bases:
        if (line := next(lines, None)) is None:
            raise ValueError(f"{at}: the file ends after {qualities} of {bases} quality values")
        qualities += len(line)
    if qualities != bases:
        raise ValueError(f"{at}: {bases} bases but {qualities} quality values")


def read_transcripts(path: str | Path) -> tuple[list[str], list[str]]:
    """Return names and sequences as the file has them; raises ValueError for what cannot be indexed."""
    names, sequences = [], []
    seen = set()
    for number, (name, sequence) in enumerate(read_records(path), start=1):
        if not name or not sequence:
            raise ValueError(f"{path}: record {number}: it has no {'sequence' if name else 'name'}")
        if name in seen:
            raise ValueError(f"{path}: record {number}: the name {name!r} is taken; every transcript needs its own")
        seen.add(name)
        names.append(name)
        sequences.append(sequence)
    if not names:
        raise ValueError(f"{path}: no transcripts in it")
    return names, sequences


# ---- the transcriptome de Bruijn graph ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Index:
    """The colored de Bruijn graph of the transcripts, as contigs that no transcript enters or leaves midway."""

    k: int
    kmers: Int[Tensor, " kmer"]
    """Sorted codes; a k-mer and its reverse complement share the smaller of their two codes."""
    contig: Int[Tensor, " kmer"]
    place: Int[Tensor, " kmer"]
    """Where on its contig the k-mer starts."""
    flipped: Bool[Tensor, " kmer"]
    """Whether the contig holds the reverse complement of the code."""
    size: Int[Tensor, " contig"]
    """k-mers on the contig."""
    classes: list[tuple[int, ...]]
    """The k-compatibility class of each contig: the transcripts that run through it."""
    met: dict[tuple[int, int], tuple[int, bool]]
    """(contig, transcript) → where the transcript first runs through it, and whether in the contig's direction."""


def clean(sequences: Iterable[str]) -> list[str]:
    """Return what kallisto indexes: upper case, T for U, a random base for other letters, no poly-A tail (≥ 10)."""
    generator = torch.Generator().manual_seed(42)  # the reference draws from the same Mersenne twister, seed 42
    cleaned = []
    for sequence in sequences:
        sequence = sequence.upper().replace("U", "T")
        odd = [at for at, base in enumerate(sequence) if base not in "ACGT"]
        if odd:
            bases = bytearray(sequence, "latin-1", "replace")
            for at, draw in zip(odd, torch.randint(4, (len(odd),), generator=generator).tolist(), strict=True):
                bases[at] = b"ACGT"[draw]
            sequence = bases.decode()
        cleaned.append(sequence.rstrip("A") if sequence.endswith("A" * 10) else sequence)
    return cleaned


def _kmers(text: str, k: int) -> tuple[Int[Tensor, " window"], Int[Tensor, " window"], Bool[Tensor, " window"]]:
    """Return for every window of k letters its code, its reverse complement's, and whether all are bases."""
    letters = bytearray((text + "|").encode("latin-1", "replace"))  # a buffer may not be empty
    digits = torch.frombuffer(letters.translate(_DIGITS), dtype=torch.uint8).long()
    windows = max(0, len(text) - k + 1)
    code, twin = torch.zeros(2, windows, dtype=torch.long)
    broken = torch.zeros(windows, dtype=torch.bool)
    for at in range(k):
        digit = digits[at : at + windows]
        broken |= digit > 3
        code.mul_(4).add_(digit)
        twin.add_((3 - digit) << (2 * at))
    return code, twin, ~broken


def _find(kmers: Int[Tensor, " kmer"], codes: Int[Tensor, "*any"]) -> Int[Tensor, "*any"]:
    if not len(kmers):
        return torch.full_like(codes, MISSING)
    at = torch.searchsorted(kmers, codes).clamp_(max=len(kmers) - 1)
    return torch.where(kmers[at] == codes, at, MISSING)


def build_index(sequences: Sequence[str], k: int = 31) -> Index:
    """Return the index of cleaned sequences; raises ValueError unless k is odd and 3 ≤ k ≤ 31."""
    if k % 2 == 0 or not 3 <= k <= 31:
        raise ValueError(f"k must be odd and from 3 to 31, not {k}: an even k-mer can be its own reverse complement")
    code, twin, whole = _kmers("|".join(sequences), k)
    window = whole.nonzero().squeeze(1)  # every k-mer of every transcript, in order
    code, twin = code[window], twin[window]
    begins_at = torch.tensor([0, *itertools.accumulate(len(sequence) + 1 for sequence in sequences)])
    owner = torch.searchsorted(begins_at, window, right=True) - 1
    kmers, node = torch.minimum(code, twin).unique(return_inverse=True)
    # A reading of a k-mer is 2·node, or 2·node + 1 where it is the reverse complement; `^ 1` turns it around.
    reading = 2 * node + (twin < code)
    first = torch.ones_like(whole[window])
    first[1:] = owner[1:] != owner[:-1]
    last = first.roll(-1)

    # A contig goes on through a reading with one way out into a reading with one way in, where no transcript ends.
    through = _ways_out(kmers, node, torch.maximum(code, twin), k) == 1
    through[reading[last]] = False
    through[reading[first] ^ 1] = False
    starts = torch.ones_like(first)
    starts[1:] = ~(through[reading[:-1]] & through[reading[1:] ^ 1] & (node[1:] != node[:-1]))

    # Every run between starts is one pass over one contig; the first pass over a contig gives it its direction.
    run = starts.cumsum(0) - 1
    head = starts.nonzero().squeeze(1)
    tail = torch.cat([head[1:], torch.tensor([len(node)])[: len(head)]]) - 1
    ends, contig_of_run = torch.minimum(node[head], node[tail]).unique(return_inverse=True)
    passes = torch.arange(len(head))
    example = torch.full_like(ends, len(head)).scatter_reduce_(0, contig_of_run, passes, "amin")
    on = (example[contig_of_run] == passes)[run]
    contig, place, flipped = torch.empty(3, len(kmers), dtype=torch.long)
    contig[node[on]] = contig_of_run[run[on]]
    place[node[on]] = (torch.arange(len(node)) - head[run])[on]
    flipped[node[on]] = reading[on] & 1

    met: dict[tuple[int, int], tuple[int, bool]] = {}
    classes: list[list[int]] = [[] for _ in ends]
    along = (reading[head] & 1) == flipped[node[head]]
    offset = window[head] - begins_at[owner[head]]
    for c, t, at, same in zip(
        contig_of_run.tolist(), owner[head].tolist(), offset.tolist(), along.tolist(), strict=True
    ):
        if (c, t) not in met:
            met[c, t] = (at, same)
            classes[c].append(t)
    size = (tail - head + 1)[example]
    return Index(k, kmers, contig, place, flipped.bool(), size, [tuple(c) for c in classes], met)


def _ways_out(
    kmers: Int[Tensor, " kmer"], node: Int[Tensor, " window"], larger: Int[Tensor, " window"], k: int
) -> Int[Tensor, " reading"]:
    other = torch.empty_like(kmers)
    other[node] = larger
    ahead, behind = torch.stack([kmers, other], 1).flatten(), torch.stack([other, kmers], 1).flatten()
    ways = torch.zeros_like(ahead)
    for base in range(4):
        following = ((ahead << 2) & (4**k - 1)) | base
        its_twin = (behind >> 2) | ((3 - base) << (2 * k - 2))
        ways += _find(kmers, torch.minimum(following, its_twin)) >= 0
    return ways


# ---- pseudoalignment ------------------------------------------------------------------------------------------------


def windows(index: Index, text: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return for every window of k letters: contig (or MISSING, BROKEN), k-mers ahead on it, place on it, and whether
    the text runs along it or against it."""
    code, twin, whole = _kmers(text, index.k)
    node = _find(index.kmers, torch.minimum(code, twin))
    found = node >= 0
    node.clamp_(min=0)
    home, place = index.contig[node], index.place[node]
    along = (twin < code) == index.flipped[node]
    contig = torch.where(whole, torch.where(found, home, MISSING), BROKEN)
    return contig, torch.where(along, index.size[home] - 1 - place, place), place, along


def visit(contig: Sequence[int], ahead: Sequence[int], skip: bool = True) -> tuple[list[int], list[int]]:
    """Return (windows looked up, windows whose contig counts) of one read (Figure 1d; the rules of kallisto 0.48).

    `contig` has one entry a window (or MISSING, BROKEN), `ahead` how many k-mers its contig goes on for. Without `skip`
    every window is looked up and counts.
    """
    last = len(contig) - 1

    def usable(at: int) -> int:
        while at <= last and contig[at] == BROKEN:
            at += 1
        return at

    looked, counted = [], []
    at = usable(0)
    while at <= last:
        looked.append(at)
        here, jump = contig[at], ahead[at]
        if here >= 0:
            counted.append(at)
        if skip and here >= 0 and jump >= 2:
            target = min(at + jump, last)
            landing = usable(target)
            if landing > last:
                break
            looked.append(landing)
            there = contig[landing]
            if there in (
                here,
                MISSING,
            ):  # still on the contig, or an error in the read: what lies between is taken on trust
                if there == here and at + jump >= last:
                    break
                at = landing
            else:
                middle = usable((at + target) // 2)
                if jump > 4:
                    looked.append(middle)
                if jump > 4 and contig[middle] in (here, there):
                    counted.append(middle)  # the middle counts; the landing does not
                    if target == last:
                        break
                    at = landing
                elif (at := usable(at + 1)) <= last:  # no jump: the next k-mer counts too, and makes none
                    looked.append(at)
                    if contig[at] >= 0:
                        counted.append(at)
        at = usable(at + 1)
    return looked, counted


def pseudoalign(
    index: Index, reads: Sequence[str], lengths: Sequence[int] = (), fragment: int | None = None, skip: bool = True
) -> list[tuple[int, ...]]:
    """Return the k-compatibility class of each read: the transcripts that hold all of its k-mers that count.

    With `fragment`, a transcript out of which a fragment of that length would stick leaves the class (`lengths` are
    the transcripts' own). A read without a k-mer in the index, or with none in common, gets ().
    """
    if not len(index.kmers):
        return [()] * len(reads)
    contig, ahead, place, along = (column.tolist() for column in windows(index, "|".join(reads)))
    known: dict[frozenset[int], tuple[int, ...]] = {}
    result = []
    start = 0
    for read in reads:
        stop = max(start, start + len(read) - index.k + 1)
        _, counted = visit(contig[start:stop], ahead[start:stop], skip)
        through = frozenset(contig[start + at] for at in counted)
        if through not in known:
            shared = set.intersection(*(set(index.classes[c]) for c in through)) if through else ()
            known[through] = tuple(sorted(shared))
        members = known[through]
        if members and fragment is not None:
            at = start + counted[0]
            hit = (contig[at], place[at], along[at], counted[0])
            members = tuple(t for t in members if _fits(index, t, hit, lengths[t], fragment))
        result.append(members)
        start += len(read) + 1
    return result


def _fits(index: Index, transcript: int, hit: tuple[int, int, bool, int], length: int, fragment: int) -> bool:
    contig, place, along, at = hit
    begins, same = index.met[contig, transcript]
    kmer = begins + (place if same else int(index.size[contig]) - 1 - place)
    # The first base of the fragment on its strand, and on which side of it the rest would lie.
    return kmer - at + 1 + fragment <= length if along == same else kmer + index.k + at >= fragment


# ---- abundances -----------------------------------------------------------------------------------------------------


def effective_lengths(lengths: Int[Tensor, " transcript"], mean: float, sd: float) -> Float[Tensor, " transcript"]:
    """Return l_t = length − μ_t + 1, μ_t the mean of the Gaussian cut off at the length; the length if that is < 1."""
    size = torch.arange(LONGEST_FRAGMENT, dtype=torch.float64)
    density = torch.exp(-0.5 * ((size - mean) / sd) ** 2)
    mass = density.cumsum(0)
    means = torch.where(mass > 0, (density * size).cumsum(0) / mass, 0.0)
    effective = lengths - means[lengths.clamp(max=LONGEST_FRAGMENT - 1)] + 1
    return torch.where(effective < 1, lengths.double(), effective)


def check(alpha: Tensor, lengths: Tensor, offsets: Tensor, transcripts: Tensor, counts: Tensor) -> None:
    """Raise ValueError unless the five describe one abundance a transcript and one count a class."""
    for name, x in {
        "alpha": alpha,
        "lengths": lengths,
        "offsets": offsets,
        "transcripts": transcripts,
        "counts": counts,
    }.items():
        if x.dim() != 1:
            raise ValueError(f"{name} must have one dimension, not shape {tuple(x.shape)}")
    if not alpha.is_floating_point():
        raise ValueError(f"alpha must be floating-point, not {alpha.dtype}")
    if lengths.shape != alpha.shape:
        raise ValueError(f"{len(lengths)} lengths for {len(alpha)} transcripts in alpha")
    if len(offsets) != len(counts) + 1:
        raise ValueError(f"{len(offsets)} offsets for {len(counts)} classes; there must be one more than classes")
    for name, x in {"offsets": offsets, "transcripts": transcripts}.items():
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise ValueError(f"{name} must be integers, not {x.dtype}")
    if torch.compiler.is_compiling() or alpha.device.type != "cpu":
        return  # a look at the values would make a GPU wait
    if offsets[0] != 0 or offsets[-1] != len(transcripts) or (offsets.diff() < 0).any():
        raise ValueError(f"offsets must rise from 0 to {len(transcripts)}, the number of entries in transcripts")
    if len(transcripts) and not 0 <= transcripts.min() <= transcripts.max() < len(alpha):
        raise ValueError(f"transcripts must lie in 0 … {len(alpha) - 1}")
    if (lengths <= 0).any() or (counts < 0).any():
        raise ValueError("effective lengths must be above 0, and counts not below")


def em_step(
    alpha: Float[Tensor, " transcript"],
    lengths: Num[Tensor, " transcript"],
    offsets: Int[Tensor, " classes+1"],
    transcripts: Int[Tensor, " entry"],
    counts: Num[Tensor, " classes"],
) -> Float[Tensor, " transcript"]:
    """Return the α that EM makes of α: α_t ← Σ_e c_e · (α_t/l_t) / Σ_{s∈e} α_s/l_s, over N = Σ_e c_e.

    Class e holds `transcripts[offsets[e]:offsets[e + 1]]`. Classes without weight give nothing; without any read α
    stays. Sums in float64. Raises ValueError for shapes, types or offsets that do not fit.
    """
    check(alpha, lengths, offsets, transcripts, counts)
    return _step(alpha, lengths, _members(offsets, transcripts), transcripts, counts)


def _members(offsets: Int[Tensor, " classes+1"], transcripts: Int[Tensor, " entry"]) -> Int[Tensor, " entry"]:
    classes = torch.arange(len(offsets) - 1, device=offsets.device)
    return torch.repeat_interleave(classes, offsets.diff(), output_size=len(transcripts))


def _step(alpha: Tensor, lengths: Tensor, member: Tensor, transcripts: Tensor, counts: Tensor) -> Tensor:
    weight = (alpha.double() / lengths.double())[transcripts]
    total = weight.new_zeros(len(counts)).index_add_(0, member, weight)[member]
    share = torch.where(total == 0, 0.0, weight / total)
    after = weight.new_zeros(len(alpha)).index_add_(0, transcripts, share * counts.double()[member])
    reads = counts.double().sum()
    return torch.where(reads == 0, alpha, (after / reads).to(alpha.dtype))


def log_likelihood(alpha: Tensor, lengths: Tensor, offsets: Tensor, transcripts: Tensor, counts: Tensor) -> Tensor:
    """Return log Π_e (Σ_{t∈e} α_t/l_t)^{c_e}, the likelihood of the paper up to a constant, in float64."""
    check(alpha, lengths, offsets, transcripts, counts)
    weight = (alpha.double() / lengths.double())[transcripts]
    total = weight.new_zeros(len(counts)).index_add_(0, _members(offsets, transcripts), weight)
    return torch.special.xlogy(counts.double(), total).sum()


def em(
    lengths: Tensor, offsets: Tensor, transcripts: Tensor, counts: Tensor, least: int = 50, most: int = 10_000
) -> tuple[Float[Tensor, " transcript"], int]:
    """Return (α, rounds): EM from uniform α until no α_t·N > 0.01 changes by more than 1 %.

    The reference's constants: more than 50 rounds, at most 10,000; then α_t·N < 1e-8 becomes 0, and one last round.
    """
    alpha = torch.full((len(lengths),), 1 / len(lengths), dtype=torch.float64)
    check(alpha, lengths, offsets, transcripts, counts)
    member, reads = _members(offsets, transcripts), counts.sum()
    settled = False
    for rounds in range(1, most + 1):
        before, alpha = alpha, _step(alpha, lengths, member, transcripts, counts)
        if settled:
            break
        moved = (alpha * reads > 0.01) & ((alpha - before).abs() > 0.01 * alpha)
        if rounds > least + 1 and not moved.any():
            settled = True
            alpha = torch.where(alpha * reads < 1e-8, 0.0, alpha)
    return alpha, rounds


def csr(classes: Iterable[tuple[int, ...]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return (offsets, transcripts, counts) of the reads' classes; reads with an empty class are left out."""
    tally = Counter(classes)
    del tally[()]
    sizes = torch.tensor([0, *map(len, tally)])
    flat = torch.tensor([t for members in tally for t in members], dtype=torch.long)
    return sizes.cumsum(0), flat, torch.tensor(list(tally.values()), dtype=torch.long)


def quantify(
    fasta: str | Path, fastq: str | Path, k: int = 31, fragment_mean: float = 200.0, fragment_sd: float = 20.0
) -> dict[str, float]:
    """Return {transcript: expected number of its reads} for single-end reads, as `kallisto quant --single` would.

    Raises ValueError for an even k or one out of 3 … 31, a fragment mean or deviation ≤ 0, and files that are not FASTA
    or FASTQ.
    """
    if not (fragment_mean > 0 and fragment_sd > 0):
        raise ValueError(f"fragment mean and deviation must be above 0, not {fragment_mean} and {fragment_sd}")
    names, sequences = read_transcripts(fasta)
    lengths = [len(sequence) for sequence in sequences]  # before the tail is cut, as in the reference
    index = build_index(clean(sequences), k)
    reads = (sequence for _, sequence in read_records(fastq))
    tally: Counter[tuple[int, ...]] = Counter()
    while batch := list(itertools.islice(reads, 20_000)):
        tally.update(pseudoalign(index, batch, lengths, int(fragment_mean)))
    offsets, transcripts, counts = csr(tally)
    if not len(counts):
        return dict.fromkeys(names, 0.0)
    effective = effective_lengths(torch.tensor(lengths), fragment_mean, fragment_sd)
    alpha, _ = em(effective, offsets, transcripts, counts)
    return dict(zip(names, (alpha * counts.sum()).tolist(), strict=True))

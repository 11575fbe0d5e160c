"""The suite is tested too: a sound kernel passes, and each broken one is caught for what is wrong with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from generator.lab.audit import faults
from generator.lab.cases import LAYOUTS, Case, arguments_of, cases, lay, prove
from generator.lab.guards import PAD, OutOfBounds, bounded, padded, poisoned
from generator.lab.kernels import Kernel
from generator.lab.parity import agree, parity
from tests.broken_kernels import BROKEN, SOUND

ROOT = Path(__file__).resolve().parent.parent
CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
interpreted = pytest.mark.skipif(CUDA, reason="addresses are checked in the interpreter")


def said_of(kernel: Kernel) -> list[str]:
    """Return what the matrix says of a kernel, one message for each case that fails."""
    said = []
    for case in cases(kernel):
        try:
            prove(kernel, case, DEVICE)
        except AssertionError as error:
            said.append(str(error))
    return said


def test_a_sound_kernel_passes():
    assert said_of(SOUND) == []
    assert all(one.holds for one in parity(SOUND, DEVICE))


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("off_by_one", "forward, output 0: NaN where the twin has none: an element never written"),
        ("wrong_gradient", "backward, the gradient of x: off by more than the tolerance"),
        ("drops_nan", "forward, output 0: NaN or infinity lost"),
        ("writes_to_its_input", "changes its input x"),
        pytest.param("reads_past_the_end", "reads past the end of x_ptr", marks=interpreted),
        pytest.param("writes_past_the_end", "writes past the end of y_ptr", marks=interpreted),
    ],
)
def test_the_matrix_says_what_is_wrong(name, fault):
    said = said_of(BROKEN[name])
    assert said and all(fault in one for one in said)


def test_a_forgotten_upcast_fails_in_half_precision_alone():
    said = said_of(BROKEN["no_upcast"])
    assert said and not [one for one in said if "float32" in one]


def test_ignored_strides_fail_in_every_layout_but_the_contiguous():
    said = said_of(BROKEN["ignores_strides"])
    assert {layout for layout in LAYOUTS if any(layout in one for one in said)} == set(LAYOUTS)
    assert not [one for one in said if "contiguous" in one]


def test_a_failure_names_the_case_the_element_and_its_inputs():
    with pytest.raises(AssertionError) as failure:
        prove(BROKEN["off_by_one"], Case((31, 67), torch.float16, "transposed"), DEVICE)
    said = str(failure.value)
    assert "shape (31, 67), float16, transposed" in said
    assert "1 of 2077 elements; the worst at (30, 66)" in said
    x = arguments_of(SOUND, Case((31, 67), torch.float16), DEVICE)["x"][30, 66].item()
    assert f"x there: {x!r}" in said and "scale: 1.5" in said
    assert "is nan, should be" in said


@pytest.fixture(scope="module")
def audited():
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "generator.lab.audit", "tests.broken_kernels"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = {}
    for row in map(json.loads, done.stdout.splitlines()):
        found.setdefault(row["kernel"], []).extend(row["faults"])
    return found


@pytest.mark.parametrize("name", ["narrow_index", "index_widened_late"])
def test_an_index_of_32_bits_is_read_off_the_code(name, audited):
    # The matrix cannot see it: the offset goes wrong from element 2³¹ on, and no test allocates that many.
    assert said_of(replace(BROKEN[name], dtypes=(torch.float32,), shapes=((1025,),))) == []
    assert audited[name] and all("a 32-bit product of a number that may be large" in one for one in audited[name])


def test_a_forgotten_upcast_is_read_off_the_code(audited):
    assert any("(bfloat16): arith.addf computes in bf16" in one for one in audited["no_upcast"])
    assert any("(float16): arith.addf computes in f16" in one for one in audited["no_upcast"])


def test_the_code_of_all_others_has_no_fault(audited):
    faulty = {"no_upcast", "narrow_index", "index_widened_late"}
    assert audited.keys() == {"sound", *BROKEN}
    assert {name for name, said in audited.items() if said} == faulty


NUMBER = "%0 = tt.get_program_id x : i32\n%1 = arith.muli %0, %c64 : i32\n"


@pytest.mark.parametrize(
    ("code", "caught"),
    [
        ("%2 = tt.addptr %p, %1 : !tt.ptr<f32>, i32", ["%1"]),
        ("%2 = arith.extsi %1 : i32 to i64\n%3 = tt.addptr %p, %2 : !tt.ptr<f32>, i64", ["%2"]),
        ("%2 = arith.remsi %0, %c7 : i32\n%3 = arith.muli %2, %c64 : i32\n%4 = tt.addptr %p, %3 : !tt.ptr<f32>, i32", []),
        ("%2 = arith.extsi %0 : i32 to i64\n%3 = arith.muli %2, %c : i64\n%4 = tt.addptr %p, %3 : !tt.ptr<f32>, i64", []),
        ("scf.for %i = %1 to %n step %c64  : i32 {\n  %2 = tt.addptr %p, %i : !tt.ptr<f32>, i32\n}", ["%i"]),
        ("%2:2 = scf.for %i = %a to %b step %c iter_args(%k = %z, %l = %y) -> (f32, i32) : i32 {\n"
         "  scf.yield %k, %1 : f32, i32\n}\n%3 = tt.addptr %p, %2#1 : !tt.ptr<f32>, i32", ["%2#1"]),
        ("%2 = scf.if %a -> (i32) {\n  scf.yield %z : i32\n} else {\n  scf.yield %1 : i32\n}\n"
         "%3 = tt.addptr %p, %2 : !tt.ptr<f32>, i32", ["%2"]),
        ("tt.func public @f(%n: i32) {\n%2 = arith.muli %n, %c4 : i32\n%3 = tt.addptr %p, %2 : !tt.ptr<f32>, i32", ["%2"]),
        ("%2 = tt.load %q : tensor<8x!tt.ptr<i32>>\n%3 = tt.addptr %p, %2 : tensor<8x!tt.ptr<f32>>, tensor<8xi32>", []),
        ("%2 = tt.load %q, %m, %z : tensor<8x!tt.ptr<i32>>\n%3 = arith.muli %2, %c : tensor<8xi32>\n"
         "%4 = tt.addptr %p, %3 : tensor<8x!tt.ptr<f32>>, tensor<8xi32>", ["%3"]),
    ],
)  # fmt: skip
def test_a_product_is_followed_into_every_index_and_cut_by_a_remainder(code, caught):
    said = [f"{name}: an index into memory is a 32-bit product of a number that may be large" for name in caught]
    assert faults(NUMBER + code) == said


@pytest.mark.parametrize(
    "allocate",
    [
        lambda x: torch.empty(x.shape),
        lambda x: torch.empty_like(x),
        lambda x: x.new_empty(x.shape),
        lambda x: x.new_empty_strided(x.shape, x.stride()),
        lambda x: torch.empty_strided(x.shape, x.stride()),
        lambda x: torch.empty_permuted(x.shape, (1, 0)),
    ],
)
def test_poison_reaches_every_allocation_inside_a_custom_op(allocate):
    @torch.library.custom_op("broken::allocates", mutates_args=())
    def allocates(x: torch.Tensor) -> torch.Tensor:
        return allocate(x)

    with poisoned() as made:
        assert allocates(torch.zeros(3, 5)).isnan().all()
    assert made


def test_nan_lies_before_between_and_behind_the_elements_of_an_input():
    x = torch.arange(6.0).reshape(2, 3)
    for layout in ("contiguous", *LAYOUTS):
        laid = lay(x, layout)
        whole = torch.empty(0).set_(laid.untyped_storage())
        assert whole[:PAD].isnan().all() and whole[-PAD + 1 :].isnan().all()
        assert torch.equal(laid, x[:1].expand(2, 3) if layout == "expanded" else x)
    assert lay(x, "transposed").stride() == (1, 2)
    assert lay(x, "sliced").stride() == (6, 2)
    assert lay(torch.zeros(2, 3, 4, 5), "channels_last").is_contiguous(memory_format=torch.channels_last)


def test_a_kernel_that_sums_what_lies_past_the_end_meets_nan_without_the_bounds_check():
    summing = replace(
        SOUND, op=lambda x, scale: padded_sum(x, 1) * scale, twin=lambda x, scale: x.sum() * scale, differentiable=()
    )
    arguments = arguments_of(summing, Case((1023,), torch.float32), DEVICE)
    with pytest.raises(AssertionError, match="read from outside its input"):
        agree(summing, arguments, 0, "the sum of 1023 and one more")


def padded_sum(x: torch.Tensor, more: int) -> torch.Tensor:
    return x.as_strided((x.numel() + more,), (1,)).sum()


@interpreted
def test_only_lanes_that_are_not_masked_must_lie_inside():
    with bounded():
        SOUND.op(padded(torch.ones(3), (1,)), 1.0)
        with pytest.raises(Exception, match=OutOfBounds.__name__):
            BROKEN["reads_past_the_end"].op(padded(torch.ones(3), (1,)), 1.0)


def test_every_dtype_shape_and_layout_is_in_the_matrix_and_special_values_where_they_are_welcome():
    matrix = list(cases(SOUND))
    assert {(case.shape, case.dtype) for case in matrix} == {(s, d) for s in SOUND.shapes for d in SOUND.dtypes}
    assert {case.layout for case in matrix} == {"contiguous", *LAYOUTS}
    assert any(case.special for case in matrix)
    assert not any(case.special for case in cases(replace(SOUND, special=())))
    assert {case.layout for case in cases(replace(SOUND, layouts=False))} == {"contiguous"}

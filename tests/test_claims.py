"""A verdict is computed from the number, the prediction and the seeds."""

from types import SimpleNamespace

import pytest

from generator import claims
from generator.schema import Claim, Note


def result(**metrics):
    return SimpleNamespace(metrics={name: {"unit": "", "setting": "", **metric} for name, metric in metrics.items()})


def claim(expect, **more):
    return Claim.model_validate({"says": "x", "metric": "a", "expect": expect, **more})


@pytest.mark.parametrize(
    ("expect", "value", "verdict"),
    [
        ({"near": 1.0, "within": 0.15}, 1.15, "reproduced"),
        ({"near": 1.0, "within": 0.15}, 1.16, "contradicted"),
        ({"below": 2}, 1.9, "reproduced"),
        ({"below": 2}, 2.0, "contradicted"),
        ({"above": 2}, 2.1, "reproduced"),
        ({"above": 2}, 2.0, "contradicted"),
        ({"between": [1, 2]}, 2.0, "reproduced"),
        ({"between": [1, 2]}, 2.1, "contradicted"),
        ({"equals": 60954656}, 60954656, "reproduced"),
        ({"equals": 60954656}, 60954655, "contradicted"),
        ({"equals": True}, True, "reproduced"),
        ({"equals": True}, False, "contradicted"),
        ({"below": "b"}, 2.9, "reproduced"),
        ({"above": "b"}, 2.9, "contradicted"),
    ],
)
def test_the_verdict_follows_from_the_number(expect, value, verdict):
    assert claims.judge(claim(expect), result(a={"value": value}, b={"value": 3.0})).verdict == verdict


def test_a_reported_claim_is_never_called_reproduced():
    assert claims.judge(Claim(says="x", reported=True), result()).verdict == "reported only"


def test_without_a_result_a_claim_is_untested():
    assert claims.judge(claim({"below": 2}), None).verdict == "untested"


def test_seeds_that_disagree_are_counted():
    judged = claims.judge(claim({"below": 2}), result(a={"value": 1.5, "seeds": [1.0, 1.2, 2.3]}))
    assert (judged.verdict, judged.seeds) == ("reproduced", "holds for 2 of 3 seeds")


def test_seeds_are_compared_pair_by_pair():
    both = result(a={"value": 2.0, "seeds": [1.0, 3.0]}, b={"value": 3.0, "seeds": [2.0, 4.0]})
    assert claims.judge(claim({"below": "b"}), both).seeds == "holds for 2 of 2 seeds"


def note(one):
    return Note.model_construct(
        slug="toy", file="notes/toy.md", front=SimpleNamespace(claims=(one,)), places={"claims.0": (9, 3)}
    )


def test_a_contradicted_claim_is_a_problem_until_the_note_says_so():
    found = result(a={"value": 3.0})
    (problem,) = claims.problems(note(claim({"below": 2})), found)
    assert str(problem).startswith("notes/toy.md:9:3: this claim came out contradicted (3)")
    assert not claims.problems(note(claim({"below": 2}, verdict="contradicted", because="small scale")), found)


def test_a_claim_that_comes_out_after_all_is_a_problem_too():
    stubborn = claim({"below": 2}, verdict="contradicted", because="small scale")
    assert "came out reproduced" in str(claims.problems(note(stubborn), result(a={"value": 1.0}))[0])


def test_an_unknown_metric_is_a_problem_with_the_nearest_name():
    (problem,) = claims.problems(note(claim({"below": 2})), result(aa={"value": 1.0}))
    assert "unknown metric 'a'; did you mean 'aa'?" in str(problem)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.25, "0.25"),
        (1.0507009873554804, "1.051"),
        (60954656, "60 954 656"),
        (1.2e-9, "1.2·10⁻⁹"),
        (True, "yes"),
        (0.0, "0"),
        (404351.0, "4.04·10⁵"),
        ("x", "x"),
    ],
)
def test_numbers_are_written_as_people_write_them(value, text):
    assert claims.number(value).replace("\u2009", " ") == text

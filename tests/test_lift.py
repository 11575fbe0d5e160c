"""Formulae and code are lifted out before Jinja sees the text, and come back unchanged."""

import pytest

from generator.formulae import FormulaError, mathml
from generator.lift import lift

CASES = [
    ("a $x_{1}$ b", [("inline math", "x_{1}")]),
    ("`{{ code }}` and ``a ` b``", [("code", "`{{ code }}`"), ("code", "``a ` b``")]),
    ("```python\n{{ no }}\n$x$\n```", [("code", "```python\n{{ no }}\n$x$\n```")]),
    ("~~~\n```\n~~~", [("code", "~~~\n```\n~~~")]),
    ("$$\na {{b}}\n$$", [("display math", "a {{b}}")]),
    (r"\(a\) and \[b\]", [("inline math", "a"), ("display math", "b")]),
    ("it costs $5 and $6.", []),
    (r"it costs \$5 $x$", [("inline math", "x")]),
    ("{{ metric('a$b') }} and {{ metric('c$d') }}", []),
    ("- a\n    ```\n    {{ no }}\n\n    $x$\n    ```", [("code", "    ```\n    {{ no }}\n\n    $x$\n    ```")]),
    ("> ```\n> $x$\n>\n> {{ no }}\n> ```", [("code", "> ```\n> $x$\n>\n> {{ no }}\n> ```")]),
    ("`$x$` is code", [("code", "`$x$`")]),
    ("$x\n\ny$", []),
    ("$a\\$b$", [("inline math", "a\\$b")]),
    ("($c$), $d$-th", [("inline math", "c"), ("inline math", "d")]),
]


@pytest.mark.parametrize(("text", "pieces"), CASES, ids=[case[0] for case in CASES])
def test_just_the_formulae_and_the_code_are_lifted(text, pieces):
    assert lift(text).pieces == pieces


@pytest.mark.parametrize("text", [case[0] for case in CASES])
def test_what_was_lifted_comes_back(text):
    lifted = lift(text)
    back = {"inline math": "${}$", "display math": "$${}$$", "code": "{}"}
    restored = lifted.back(lifted.text, lambda kind, piece: back[kind].format(piece))
    assert [kind for kind, _ in lift(restored).pieces] == [kind for kind, _ in lifted.pieces]
    assert lifted.text.count("\n") == text.count("\n")  # so that Jinja's line numbers stay true


def test_a_dollar_that_is_no_formula_shows_as_one():
    assert lift(r"it costs \$5 and $6").text == "it costs &#36;5 and $6"


def test_marks_in_the_input_are_no_marks():
    lifted = lift("\ue0000\ue001 $x$")
    assert lifted.back(lifted.text, lambda kind, piece: f"<{piece}>") == "0 <x>"


def test_a_formula_becomes_mathml_that_markdown_leaves_alone():
    assert mathml("a_1^{*} * b_2", display=False).startswith('<span class="pn-math"><math>')
    for character in "*_`[]\\":
        assert character not in mathml(r"a_1^{*} * \text{`b`}_2 [x]", display=False)


@pytest.mark.parametrize("latex", [r"\foo{x}", "a_{b", r"\frac{1", r"\begin{cases} x", "}"])
def test_a_formula_that_is_no_latex_says_so(latex):
    with pytest.raises(FormulaError):
        mathml(latex, display=False)

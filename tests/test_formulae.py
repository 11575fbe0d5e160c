"""LaTeX to MathML: what the converter gives, made fit for the fonts and the page."""

from generator.formulae import mathml


def test_a_script_capital_is_one_character_that_the_first_font_file_has():
    shown = mathml(r"\mathcal{L} + \mathbb{R}", display=False)
    assert "ℒ" in shown and "ℝ" in shown
    assert "\ufe00" not in shown

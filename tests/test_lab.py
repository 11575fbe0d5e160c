"""What a snippet may record, and how its figures come out."""

import json
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

from generator.lab.data import digits  # noqa: E402
from generator.lab.figures import SERIES, follow_scheme, panel, save, spread  # noqa: E402
from generator.lab.recorder import Recorder, RecordError  # noqa: E402
from generator.lab.train import error_rate, fit, minibatches  # noqa: E402


@pytest.fixture
def record(tmp_path):
    return Recorder("toy", tmp_path)


def saved(record):
    record.save()
    return json.loads((record.folder / "result.json").read_text())


def test_numbers_of_any_kind_become_plain_numbers(record):
    record.metric("a", torch.tensor(1.5))
    record.metric("b", 3)
    record.metric("c", torch.tensor(7))
    record.metric("d", True)
    record.metric("e", "text")
    assert [one["value"] for one in saved(record)["metrics"].values()] == [1.5, 3, 7, True, "text"]


def test_one_value_a_seed_keeps_all_and_shows_the_mean(record):
    record.metric("a", [1.0, 2.0, 6.0])
    record.metric("b", torch.tensor([1.0, 2.0]))
    assert saved(record)["metrics"]["a"] == {"unit": "", "setting": "", "seeds": [1.0, 2.0, 6.0], "value": 3.0}
    assert saved(record)["metrics"]["b"]["value"] == 1.5


@pytest.mark.parametrize(
    ("act", "what"),
    [
        (lambda r: r.metric("x", float("nan")), "record a finite number"),
        (lambda r: r.metric("x", [1.0, float("inf")]), "record a finite number"),
        (lambda r: r.metric("x", None), "not a number"),
        (lambda r: r.metric("x", []), "at least one"),
        (lambda r: r.metric("No Name", 1), "lower-case"),
        (lambda r: (r.metric("x", 1), r.metric("x", 2)), "recorded twice"),
        (lambda r: r.table("t", []), "no rows"),
        (lambda r: r.table("t", [{"a": 1}, {"b": 1}]), "row 2"),
        (lambda r: r.figure("f", panel()[0], caption=" ", alt="x"), "no caption"),
        (lambda r: r.figure("f", panel()[0], caption="x", alt=""), "no alt text"),
        (lambda r: r.figure("../f", panel()[0], caption="x", alt="x"), "lower-case"),
        (lambda r: r.figure("f", [], caption="x", alt="x"), "no panels"),
    ],
)
def test_what_no_page_could_show_is_refused_with_a_reason(record, act, what):
    with pytest.raises(RecordError, match=what):
        act(record)


def test_a_figure_is_real_text_in_colours_that_follow_the_scheme(tmp_path):
    fig, ax = panel("A title", "time", "loss")
    ax.plot([0, 1], [0, 1], color=SERIES[0])
    save(fig, tmp_path / "f.svg", salt="toy/f.svg")
    svg = (tmp_path / "f.svg").read_text()
    assert svg.startswith("<svg")
    assert "A title</text>" in svg
    assert f"var(--figure-series-1, {SERIES[0]})" in svg
    assert "var(--figure-ink" in svg
    assert "\n\n" not in svg
    assert "metadata" not in svg


def test_the_same_figure_is_the_same_file(tmp_path):
    for name in ("a", "b"):
        fig, ax = panel()
        ax.scatter([0, 1, 2], [2, 1, 0])
        save(fig, tmp_path / f"{name}.svg", salt="toy/f.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_ids_of_two_figures_on_a_page_never_meet():
    one, two = (
        follow_scheme('<svg><g id="p1"/><use xlink:href="#p1" clip-path="url(#p1)"/></svg>', salt) for salt in "ab"
    )
    assert 'id="a-p1"' in one
    assert 'href="#a-p1"' in one
    assert "url(#a-p1)" in one
    assert 'id="b-p1"' in two


def test_digits_are_real_split_by_seed_and_disjoint():
    x, y, held_x, held_y = digits(seed=1)
    assert len(x) + len(held_x) == 1797
    assert x.min() >= 0
    assert x.max() == 1
    assert set(y.tolist()) == set(held_y.tolist()) == set(range(10))
    assert torch.equal(digits(seed=1)[0], x)
    assert not torch.equal(digits(seed=2)[0], x)


def test_one_snippet_runs_by_hand(tmp_path):
    from conftest import ROOT

    slug = next(path.parent.name for path in sorted(ROOT.glob("snippets/*/experiment.py")))
    done = subprocess.run(
        [sys.executable, "-m", "snippets", slug, "--figures", str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert " = " in done.stdout
    assert list(tmp_path.glob("*.svg"))
    assert subprocess.run([sys.executable, "-m", "snippets", "nowhere"], cwd=ROOT, capture_output=True).returncode == 2


def test_an_epoch_visits_each_sample_at_most_once_in_full_minibatches():
    batches = list(minibatches(10, 3, torch.Generator().manual_seed(0)))
    seen = torch.cat(batches).tolist()
    assert [len(one) for one in batches] == [3, 3, 3]
    assert len(set(seen)) == 9
    assert set(seen) < set(range(10))


def line():
    x = torch.linspace(-1, 1, 64)[:, None]
    return torch.nn.Linear(1, 1), x, 3 * x - 1


def test_fitting_a_line_finds_it_and_reports_a_loss_an_epoch():
    module, x, y = line()
    told = []
    losses = fit(
        module, x, y, optimizer=torch.optim.SGD(module.parameters(), 0.5), epochs=30, batch=16,
        objective=torch.nn.functional.mse_loss, after_epoch=told.append,
    )  # fmt: skip
    assert len(losses) == 30
    assert told == list(range(30))
    assert losses[-1] < 1e-8
    assert [module.weight.item(), module.bias.item()] == pytest.approx([3, -1], abs=1e-4)


def test_training_that_diverges_ends_and_says_so():
    module, x, y = line()
    losses = fit(
        module, x, y, optimizer=torch.optim.SGD(module.parameters(), 1e20), epochs=5, batch=16,
        objective=torch.nn.functional.mse_loss,
    )  # fmt: skip
    assert len(losses) == 5
    assert losses[-1] != losses[-1]


def test_the_error_rate_counts_wrong_labels_in_evaluation_mode_and_puts_the_mode_back():
    module = torch.nn.Sequential(torch.nn.Dropout(1.0), torch.nn.Identity())
    scores = torch.eye(4)
    module.train()
    assert error_rate(module, scores, torch.tensor([0, 1, 2, 0]), batch=3) == 0.25
    assert module.training


def test_a_spread_spans_every_run_around_its_mean():
    _, ax = panel()
    spread(ax, [0, 1], [[0.0, 1.0], [2.0, 5.0]], SERIES[0], label="runs")
    assert ax.lines[0].get_ydata().tolist() == [1.0, 3.0]
    low, high = ax.dataLim.intervaly
    assert [low, high] == [0.0, 5.0]

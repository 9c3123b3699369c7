import numpy as np
import pytest

from jaxreid.metrics.calibration import Answers, Rate
from jaxreid.report import curves, plot_cmc, plot_lengths, plot_training
from jaxreid.report.curves import plot_matches
from tests.report.drawing import pixels


def test_cmc_is_a_picture_of_every_curve(tmp_path):
    curve = 1 - 0.2 / np.arange(1, 51)
    curves = {"this run": curve.astype(np.float32), "no matches": np.full(50, np.nan)}
    plot_cmc(tmp_path / "eval" / "cmc.png", curves, "Market-1501")
    assert pixels(tmp_path / "eval" / "cmc.png").shape == (576, 768, 3)


def test_cmc_axes_and_legend(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(curves, "save", lambda figure, path: drawn.append(figure))
    plot_cmc(tmp_path / "cmc.png", {"this run": np.linspace(0.88748, 1, 50)}, "title")
    (axes,) = drawn[0].axes
    (line,) = axes.lines
    assert line.get_xdata().tolist() == list(range(1, 51))
    assert line.get_ydata()[[0, -1]] == pytest.approx([88.748, 100])
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["this run: rank-1 88.7 %"]
    assert axes.get_xticks().tolist() == [1, 10, 20, 30, 40, 50]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("rank", "queries matched (%)")


def test_matches_are_drawn_with_their_thresholds(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(curves, "save", lambda figure, path: drawn.append(figure))
    curve = np.array([[0.1, 0, 0.2], [0.2, 0.01, 0.5], [0.4, 0.3, 0.99], [0.9, 1, 1]])
    rates = [Rate(value, 0, 1) for value in (0.01, 0.5, 0.01)]
    found = Answers(0.2, 0.4, *rates, cleared=0.7)
    plot_matches(tmp_path / "calibration.png", curve, found, "title")
    (axes,) = drawn[0].axes
    line, same, nobody = (each.get_xydata().tolist() for each in axes.lines)
    assert line == [[1, 50], [30, 99], [100, 100]]  # No false match has no place on this axis.
    assert same == [[1, 50]]
    assert nobody == [pytest.approx([30, 99])]
    words = [t.get_text() for t in axes.get_legend().get_texts()]
    assert words == ['up to 0.2: "same"', 'above 0.4: "nobody"']
    assert axes.get_xscale() == "log"


def test_training_takes_the_last_record_of_a_step(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(curves, "save", lambda figure, path: drawn.append(figure))
    history = [
        {"step": 0, "loss": 3.0, "lr": 0.01},
        {"step": 10, "loss": 9.0, "lr": 0.01},
        {"step": 10, "loss": 2.0, "lr": 0.001},  # after a restart
        {"step": 10, "rank1": 0.5},
    ]
    assert plot_training(tmp_path / "training.png", history)
    loss, rate = drawn[0].axes
    assert loss.lines[0].get_xydata().tolist() == [[0, 3], [10, 2]]
    assert rate.lines[0].get_xydata().tolist() == [[0, 0.01], [10, 0.001]]
    assert (loss.get_yscale(), rate.get_yscale()) == ("linear", "log")


def test_training_without_records(tmp_path):
    assert not plot_training(tmp_path / "training.png", [{"step": 1, "rank1": 0.5}])
    assert not (tmp_path / "training.png").exists()


def test_rank1_by_length_is_written_in_its_cells(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.text", lambda self, x, y, words, **_: written.append((x, y, words))
    )
    plot_lengths(tmp_path / "lengths.png", np.array([[0.1, 0.2], [0.3, 1.0]]), (1, 128))
    assert written == [(0, 0, "10"), (1, 0, "20"), (0, 1, "30"), (1, 1, "100")]
    assert pixels(tmp_path / "lengths.png").std() > 5

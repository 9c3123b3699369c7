import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxreid import report
from jaxreid.errors import UserError
from jaxreid.types import AttentionMap

SCORES = {
    "rank1": 0.88748,
    "rank5": 0.951,
    "rank10": 0.97,
    "rank20": 0.985,
    "mAP": 0.7046,
    "num_queries": 3368,
    "num_gallery": 15913,
    "num_valid": 3361,
    "ap": "trapezoid",
    "flip": False,
    "rerank": "k1=20, k2=6",
}


def grey(height=128, width=64, level=128):
    return np.full((height, width, 3), level, np.uint8)


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def one_hot(count, h, w):
    """Map n of every item marks cell n of the grid."""
    return np.broadcast_to(np.eye(h * w).reshape(h * w, h, w), (count, h * w, h, w))


def read_back(path):
    return path.read_text(encoding="utf-8").splitlines()


def test_cmc_is_a_picture_of_every_curve(tmp_path):
    curve = 1 - 0.2 / np.arange(1, 51)
    curves = {"this run": curve.astype(np.float32), "no matches": np.full(50, np.nan)}
    report.plot_cmc(tmp_path / "eval" / "cmc.png", curves, "Market-1501")
    assert pixels(tmp_path / "eval" / "cmc.png").shape == (576, 768, 3)


def test_cmc_axes_and_legend(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(report, "_save", lambda figure, path: drawn.append(figure))
    report.plot_cmc(tmp_path / "cmc.png", {"this run": np.linspace(0.88748, 1, 50)}, "title")
    (axes,) = drawn[0].axes
    (line,) = axes.lines
    assert line.get_xdata().tolist() == list(range(1, 51))
    assert line.get_ydata()[[0, -1]] == pytest.approx([88.748, 100])
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["this run: rank-1 88.7 %"]
    assert axes.get_xticks().tolist() == [1, 10, 20, 30, 40, 50]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("rank", "queries matched (%)")


def test_ranked_frames_are_green_and_red(tmp_path):
    Image.fromarray(grey()).save(tmp_path / "item.png")
    gallery = [str(tmp_path / "item.png"), tmp_path / "item.png", grey(200, 90)]
    rows = [
        report.RankedRow(grey(), 7, 1, gallery, [7, 8, 7], [2, 3, 4], [0.1, 0.2, 0.3], correct)
        for correct in ([True, False, True], [False, False, True])
    ]
    rows.append(report.RankedRow(grey(), 9, 1, [], [], [], [], []))  # nothing admissible
    report.plot_ranked(tmp_path / "ranked.png", rows)
    sheet = pixels(tmp_path / "ranked.png")

    def painted(color):
        """Which of the nine places for gallery items are framed in this colour."""
        # Pictures are 112 x 224 in frames of 6; columns start 136 apart, rows 280 apart.
        lefts, tops = [184 + 136 * j for j in range(3)], [56 + 280 * i for i in range(3)]
        places = [[sheet[t : t + 236, x : x + 124] for x in lefts] for t in tops]
        edge = np.ones((236, 124), bool)
        edge[6:-6, 6:-6] = False
        for row in places[:2]:
            for place in row:
                assert (place[~edge] == 128).all()
        return [[bool((p[edge] == color).all()) for p in row] for row in places]

    assert painted(report.GREEN) == [[True, False, True], [False, False, True], [False] * 3]
    assert painted(report.RED) == [[False, True, False], [True, True, False], [False] * 3]
    assert sheet.shape == (56 + 3 * 280 + 12, 184 + 3 * 136 - 12 + 24, 3)


def test_ranked_names_an_image_that_cannot_be_read(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a picture")
    for path in (broken, tmp_path / "missing.jpg"):
        row = report.RankedRow(path, 1, 1, [], [], [], [], [])
        with pytest.raises(UserError, match=f"{path.name}: expected an image"):
            report.plot_ranked(tmp_path / "ranked.png", [row])


def test_ranked_needs_rows(tmp_path):
    with pytest.raises(ValueError, match="no rows"):
        report.plot_ranked(tmp_path / "ranked.png", [])


def test_attention_outlines_the_reference_and_heats_the_right_place(tmp_path):
    images = np.stack([grey(256, 128, level) for level in (100, 160)])
    maps = {
        "reference": AttentionMap(one_hot(2, 8, 4), "self"),
        "intra": AttentionMap(one_hot(2, 8, 4), "self"),
        "inter": AttentionMap(one_hot(2, 8, 4)[:, ::-1], "partner"),
    }
    report.plot_attention(tmp_path / "attention.png", images, maps, references=3)
    sheet = pixels(tmp_path / "attention.png")
    # Pictures are 144 x 288, in columns of 168 and rows of 316; a cell is 36 x 36.
    height, width = 288, 144
    for k, n in enumerate([9, 17, 25]):  # inside the border: rows 2, 4, 6 of column 1
        top, (i, j) = 60 + 316 * k, divmod(n, 4)
        query, intra, inter = (
            sheet[top : top + height, 28 + 168 * c : 28 + 168 * c + width] for c in range(3)
        )
        outlined = (query == report.YELLOW).all(axis=-1)
        assert outlined.sum() == 36**2 - 28**2
        assert outlined[36 * i : 36 * i + 36, 36 * j : 36 * j + 36].sum() == outlined.sum()
        assert (query[~outlined] == 100).all()
        for heated, level, (row, column) in (
            (intra, 100, (i, j)),
            (inter, 160, divmod(31 - n, 4)),
        ):
            hot = (heated != level).any(axis=-1)
            center = np.argwhere(hot).mean(axis=0)
            assert center == pytest.approx([36 * row + 17.5, 36 * column + 17.5], abs=1)
            assert 36**2 < hot.sum() <= 72**2  # bilinear: reaches to the neighbours' centres


def test_attention_without_partners_shows_every_item(tmp_path):
    maps = {"mask": AttentionMap(np.zeros((3, 1, 4, 2)), "self")}
    report.plot_attention(tmp_path / "attention.png", np.stack([grey()] * 3), maps)
    sheet = pixels(tmp_path / "attention.png")
    assert sheet.shape == (12 + 60 + 316, 48 + 3 * (2 * 168 + 32) - 48, 3)
    clear = (sheet[60:348] == 128).all(axis=(0, 2))
    assert clear.sum() == 6 * 144  # a map of zeros leaves its picture as it is


def test_attention_one_map_beside_many(tmp_path):
    maps = {
        "parts": AttentionMap(np.ones((2, 5, 4, 2)), "self"),
        "mask": AttentionMap(np.ones((2, 1, 4, 2)), "partner"),
    }
    report.plot_attention(tmp_path / "a.png", np.stack([grey()] * 2), maps, references=9)
    assert pixels(tmp_path / "a.png").shape[0] == 12 + 60 + 5 * (288 + 28)


def test_attention_maps_that_do_not_fit(tmp_path):
    images = np.stack([grey()] * 3)
    ones = AttentionMap(np.ones((3, 2, 4, 2)), "self")
    three = AttentionMap(np.ones((3, 3, 4, 2)), "self")
    partner = AttentionMap(np.ones((3, 2, 4, 2)), "partner")
    for maps, message in (
        ({}, "attention maps for 3 images"),
        ({"a": AttentionMap(np.ones((2, 2, 4, 2)), "self")}, "attention maps for 3 images"),
        ({"a": ones, "b": three}, "one n"),
        ({"a": partner}, "need pairs"),
    ):
        with pytest.raises(ValueError, match=message):
            report.plot_attention(tmp_path / "a.png", images, maps)


@pytest.mark.parametrize(
    ("num_maps", "grid", "references", "want"),
    [
        (32, (8, 4), 3, [9, 17, 25]),
        (32, (8, 4), 99, [5, 6, 9, 10, 13, 14, 17, 18, 21, 22, 25, 26]),
        (16, (1, 16), 3, [3, 8, 12]),
        (4, (2, 2), 4, [0, 1, 2, 3]),
        (5, (7, 7), 2, [1, 3]),
        (1, (6, 3), 3, [0]),
    ],
)
def test_chosen_references(num_maps, grid, references, want):
    assert report._choose(num_maps, grid, references) == want


def test_training_takes_the_last_record_of_a_step(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(report, "_save", lambda figure, path: drawn.append(figure))
    history = [
        {"step": 0, "loss": 3.0, "lr": 0.01},
        {"step": 10, "loss": 9.0, "lr": 0.01},
        {"step": 10, "loss": 2.0, "lr": 0.001},  # after a restart
        {"step": 10, "rank1": 0.5},
    ]
    assert report.plot_training(tmp_path / "training.png", history)
    loss, rate = drawn[0].axes
    assert loss.lines[0].get_xydata().tolist() == [[0, 3], [10, 2]]
    assert rate.lines[0].get_xydata().tolist() == [[0, 0.01], [10, 0.001]]
    assert (loss.get_yscale(), rate.get_yscale()) == ("linear", "log")


def test_training_without_records(tmp_path):
    assert not report.plot_training(tmp_path / "training.png", [{"step": 1, "rank1": 0.5}])
    assert not (tmp_path / "training.png").exists()


def test_report(tmp_path):
    workdir = tmp_path / "duatm"
    report.plot_cmc(workdir / "eval" / "cmc.png", {"this run": np.ones(50)}, "title")
    path = report.write_report(
        workdir,
        config={"data": {"image_size": (256, 128)}, "note": "naïve"},
        scores=SCORES,
        paper={"rank1": 0.9142, "mAP": 0.7662},
        history=[{"step": s, "loss": 1 / (s + 1), "lr": 0.01} for s in range(200)],
    )
    assert path == workdir / "report.md"
    lines = read_back(path)
    assert lines[0] == "# duatm"
    start = lines.index("| | rank-1 | rank-5 | rank-10 | rank-20 | mAP |")
    assert lines[start + 1 : start + 4] == [
        "|---|---:|---:|---:|---:|---:|",
        "| this run | 88.7 | 95.1 | 97.0 | 98.5 | 70.5 |",
        "| the paper's figures | 91.4 | – | – | – | 76.6 |",
    ]
    start = lines.index("## Protocol")
    assert lines[start + 2 : start + 7] == [
        "- 3,368 queries against 15,913 gallery items",
        "- 7 queries without a match in the gallery, not counted",
        "- AP definition: trapezoid",
        "- flip augmentation: off",
        "- re-ranking: k1=20, k2=6",
    ]
    assert [line for line in lines if line.startswith("![")] == [
        "![Training](training.png)",
        "![Cumulative match curve](eval/cmc.png)",
    ]
    assert pixels(workdir / "training.png").shape == (691, 896, 3)
    assert "<details><summary>config.json</summary>" in lines
    fold = "\n".join(lines[lines.index("```json") + 1 : lines.index("```")])
    assert json.loads(fold) == {"data": {"image_size": [256, 128]}, "note": "naïve"}


def test_report_of_an_evaluation_alone(tmp_path):
    path = report.write_report(tmp_path, config={}, scores={**SCORES, "mAP": None})
    lines = read_back(path)
    assert "| this run | 88.7 | 95.1 | 97.0 | 98.5 | – |" in lines
    assert not any("paper" in line or line.startswith("![") for line in lines)


def test_report_refuses_percentages(tmp_path):
    with pytest.raises(ValueError, match=r"a score is 91\.42; expected a fraction"):
        report.write_report(tmp_path, config={}, scores=SCORES, paper={"rank1": 91.42})


def test_imports_neither_pyplot_nor_tensorflow():
    code = (
        "import sys, jaxreid.report; print({'matplotlib.pyplot', 'tensorflow'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_weights_of_whole_frames_are_bars_and_maps_are_heat(tmp_path):
    images = np.full((2, 3, 64, 32, 3), 90, np.uint8)
    weights = np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], np.float32)[:, :, None, None]
    heat = np.zeros((2, 3, 4, 2), np.float32)
    heat[0, 0] = 1.0  # the second frame has nothing of the clip's peak
    maps = {"when": AttentionMap(weights, "frames"), "where": AttentionMap(heat, "frames")}
    report.plot_clips(tmp_path / "clips.png", images, maps)
    picture = pixels(tmp_path / "clips.png")
    blue = (picture == report.BLUE).all(axis=2)
    columns = np.flatnonzero(np.diff(blue.any(axis=0).astype(int), prepend=0) == 1)
    heights = [int(blue[:, x].sum()) for x in columns]
    assert len(heights) == 6
    assert heights[0] == 2 * heights[1] == 2 * heights[2]
    assert heights[4] == heights[0]  # each clip's largest is full
    assert heights[3] == heights[5] == round(heights[4] / 8)
    # Heat runs to the clip's peak, not to each frame's.
    warm = picture[..., 0] - picture[..., 2] > 60
    assert warm.any()
    frames = np.flatnonzero(np.diff(warm.any(axis=0).astype(int), prepend=0) == 1)
    assert len(frames) == 1


def test_rank1_by_length_is_written_in_its_cells(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.text", lambda self, x, y, words, **_: written.append((x, y, words))
    )
    report.plot_lengths(tmp_path / "lengths.png", np.array([[0.1, 0.2], [0.3, 1.0]]), (1, 128))
    assert written == [(0, 0, "10"), (1, 0, "20"), (0, 1, "30"), (1, 1, "100")]
    assert pixels(tmp_path / "lengths.png").std() > 5


def test_parts_are_boxes_and_joints_dots(tmp_path):
    images = np.full((2, 112, 56, 3), 90, np.uint8)  # shown twice as large, 48 pixels around
    boxes = np.tile([[0.0, 20.0 * k, 56.0, 20.0 * k + 20] for k in range(5)], (2, 1, 1))
    joints = np.zeros((2, 18, 3))
    joints[0, :, :2] = 20, 60
    joints[0, 1] = 40, 100, 1
    report.plot_parts(tmp_path / "parts.png", images, joints, boxes)
    picture = pixels(tmp_path / "parts.png")
    assert picture.shape == (32 + 2 * 112 + 96, 2 * (2 * 56 + 96), 3)
    cell = picture[32:, :208]
    for k, color in enumerate(report.PARTS.values()):
        top = 48 + 2 * 20 * k + k
        assert (cell[top, 48 + 20 + k] == color).all()
    assert (cell[48 + 200, 48 + 80] == report.YELLOW).all()  # found
    assert (cell[48 + 120, 48 + 40] == 90).all()  # completed: hollow
    assert not (picture[32:, 208:] == report.YELLOW).all(axis=2).any()  # strips have no joints


def test_the_sheet_of_parts_is_a_command(market, tmp_path, capsys):
    out = tmp_path / "parts.png"
    flags = ["parts", "--name=synthetic", f"--root={market}", f"--out={out}", "--count=3"]
    assert report.main(flags) == 0
    assert "joints: " in capsys.readouterr().out
    assert pixels(out).std() > 5
    assert report.main([*flags, "--joints=none.npz"]) == 2
    assert report.main([*flags, "--size=7"]) == 2
    assert capsys.readouterr().err.count("jaxreid: error: ") == 2

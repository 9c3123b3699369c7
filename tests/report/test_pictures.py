import numpy as np
import pytest
from PIL import Image

from jaxreid.errors import UserError
from jaxreid.report import pictures
from jaxreid.report.__main__ import main
from jaxreid.report.pictures import RankedRow
from jaxreid.types import AttentionMap
from tests.report.drawing import grey, pixels


def one_hot(count, h, w):
    """Map n of every item marks cell n of the grid."""
    return np.broadcast_to(np.eye(h * w).reshape(h * w, h, w), (count, h * w, h, w))


def test_ranked_frames_are_green_and_red_and_purple_for_distractors(tmp_path):
    Image.fromarray(grey()).save(tmp_path / "item.png")
    gallery = [str(tmp_path / "item.png"), tmp_path / "item.png", grey(200, 90)]
    rows = [
        RankedRow(grey(), 7, 1, gallery, pids, [2, 3, 4], [0.1, 0.2, 0.3], correct)
        for pids, correct in (([7, 8, 7], [True, False, True]), ([0, 9, 7], [False, False, True]))
    ]
    rows.append(RankedRow(grey(), 9, 1, [], [], [], [], []))  # nothing admissible
    pictures.plot_ranked(tmp_path / "ranked.png", rows)
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

    assert painted(pictures.GREEN) == [[True, False, True], [False, False, True], [False] * 3]
    assert painted(pictures.RED) == [[False, True, False], [False, True, False], [False] * 3]
    assert painted(pictures.PURPLE) == [[False] * 3, [True, False, False], [False] * 3]
    assert sheet.shape == (56 + 3 * 280 + 12, 184 + 3 * 136 - 12 + 24, 3)


def test_ranked_names_an_image_that_cannot_be_read(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not a picture")
    for path in (broken, tmp_path / "missing.jpg"):
        row = RankedRow(path, 1, 1, [], [], [], [], [])
        with pytest.raises(UserError, match=f"{path.name}: expected an image"):
            pictures.plot_ranked(tmp_path / "ranked.png", [row])


def test_ranked_needs_rows(tmp_path):
    with pytest.raises(ValueError, match="no rows"):
        pictures.plot_ranked(tmp_path / "ranked.png", [])


def test_attention_outlines_the_reference_and_heats_the_right_place(tmp_path):
    images = np.stack([grey(256, 128, level) for level in (100, 160)])
    maps = {
        "reference": AttentionMap(one_hot(2, 8, 4), "self"),
        "intra": AttentionMap(one_hot(2, 8, 4), "self"),
        "inter": AttentionMap(one_hot(2, 8, 4)[:, ::-1], "partner"),
    }
    pictures.plot_attention(tmp_path / "attention.png", images, maps, references=3)
    sheet = pixels(tmp_path / "attention.png")
    # Pictures are 144 x 288, in columns of 168 and rows of 316; a cell is 36 x 36.
    height, width = 288, 144
    for k, n in enumerate([9, 17, 25]):  # inside the border: rows 2, 4, 6 of column 1
        top, (i, j) = 60 + 316 * k, divmod(n, 4)
        query, intra, inter = (
            sheet[top : top + height, 28 + 168 * c : 28 + 168 * c + width] for c in range(3)
        )
        outlined = (query == pictures.YELLOW).all(axis=-1)
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
    pictures.plot_attention(tmp_path / "attention.png", np.stack([grey()] * 3), maps)
    sheet = pixels(tmp_path / "attention.png")
    assert sheet.shape == (12 + 60 + 316, 48 + 3 * (2 * 168 + 32) - 48, 3)
    clear = (sheet[60:348] == 128).all(axis=(0, 2))
    assert clear.sum() == 6 * 144  # a map of zeros leaves its picture as it is


def test_attention_one_map_beside_many(tmp_path):
    maps = {
        "parts": AttentionMap(np.ones((2, 5, 4, 2)), "self"),
        "mask": AttentionMap(np.ones((2, 1, 4, 2)), "partner"),
    }
    pictures.plot_attention(tmp_path / "a.png", np.stack([grey()] * 2), maps, references=9)
    assert pixels(tmp_path / "a.png").shape[0] == 12 + 60 + 5 * (288 + 28)


def test_names_of_maps_stand_below_the_rows(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(
        pictures._Sheet, "text", lambda self, x, y, words, **_: written.append((x, y, words))
    )
    maps = {"block2": AttentionMap(np.ones((1, 2, 4, 2)), "self", ("whole body", "parts"))}
    pictures.plot_attention(tmp_path / "a.png", grey()[None], maps)
    # Rows are 316 apart; heat stands one column to the right.
    assert [line for line in written if line[1] > 300] == [
        (100, 361, "whole body"),
        (268, 361, "peak 1"),
        (100, 677, "parts"),
        (268, 677, "peak 1"),
    ]


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
            pictures.plot_attention(tmp_path / "a.png", images, maps)


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
    assert pictures._choose(num_maps, grid, references) == want


def test_weights_of_whole_frames_are_bars_and_maps_are_heat(tmp_path):
    images = np.full((2, 3, 64, 32, 3), 90, np.uint8)
    weights = np.array([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]], np.float32)[:, :, None, None]
    heat = np.zeros((2, 3, 4, 2), np.float32)
    heat[0, 0] = 1.0  # the second frame has nothing of the clip's peak
    maps = {"when": AttentionMap(weights, "frames"), "where": AttentionMap(heat, "frames")}
    pictures.plot_clips(tmp_path / "clips.png", images, maps)
    picture = pixels(tmp_path / "clips.png")
    blue = (picture == pictures.BLUE).all(axis=2)
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


def test_masks_run_from_the_least_to_the_greatest_of_each_frame(tmp_path):
    images = np.full((1, 3, 64, 32, 3), 90, np.uint8)
    mask = np.full((1, 3, 4, 2), 0.4, np.float32)
    mask[0, 0, :2] = 0.44
    mask[0, 1, :2] = 0.8  # the third frame has one value everywhere

    def warm_columns(shown):
        maps = {"mask": AttentionMap(mask, "frames", shown=shown)}
        pictures.plot_clips(tmp_path / "clips.png", images, maps)
        picture = pixels(tmp_path / "clips.png")
        warm = picture[..., 0] - picture[..., 2] > 60
        starts = np.flatnonzero(np.diff(warm.any(axis=0).astype(int), prepend=0) == 1)
        return [int(warm[:, start + 40].sum()) for start in starts]

    first, second = warm_columns("range")
    assert first == second > 0
    # From zero to the peak of the clip, the first frame's step of 0.04 cannot be seen.
    assert len(warm_columns("peak")) == 1


def test_parts_are_boxes_and_joints_dots(tmp_path):
    images = np.full((2, 112, 56, 3), 90, np.uint8)  # shown twice as large, 48 pixels around
    boxes = np.tile([[0.0, 20.0 * k, 56.0, 20.0 * k + 20] for k in range(5)], (2, 1, 1))
    joints = np.zeros((2, 18, 3))
    joints[0, :, :2] = 20, 60
    joints[0, 1] = 40, 100, 1
    pictures.plot_parts(tmp_path / "parts.png", images, joints, boxes)
    picture = pixels(tmp_path / "parts.png")
    assert picture.shape == (32 + 2 * 112 + 96, 2 * (2 * 56 + 96), 3)
    cell = picture[32:, :208]
    for k, color in enumerate(pictures.PARTS.values()):
        top = 48 + 2 * 20 * k + k
        assert (cell[top, 48 + 20 + k] == color).all()
    assert (cell[48 + 200, 48 + 80] == pictures.YELLOW).all()  # found
    assert (cell[48 + 120, 48 + 40] == 90).all()  # completed: hollow
    assert not (picture[32:, 208:] == pictures.YELLOW).all(axis=2).any()  # strips have no joints


def test_the_sheet_of_parts_is_a_command(market, tmp_path, capsys):
    out = tmp_path / "parts.png"
    flags = ["parts", "--name=synthetic", f"--root={market}", f"--out={out}", "--count=3"]
    assert main(flags) == 0
    assert "joints: " in capsys.readouterr().out
    assert pixels(out).std() > 5
    assert main([*flags, "--joints=none.npz"]) == 2
    assert main([*flags, "--size=7"]) == 2
    assert main([*flags, "--size=0,64"]) == 2
    assert main([*flags, f"--out={market}"]) == 2
    assert capsys.readouterr().err.count("jaxreid: error: ") == 4

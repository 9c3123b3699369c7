import base64
import json
import re
from html.parser import HTMLParser

import jax.numpy as jnp
import numpy as np
import pytest

from jaxreid.pages import picture, render
from jaxreid.report.charts import chart, cmc_chart, training_charts
from jaxreid.report.page import Looks, attention, leaf, wilson, write_page
from jaxreid.types import AttentionMap, Batch
from tests.report.drawing import SCORES, grey, page_with_everything, pair_looks, ranked_row

HOSTILE = "<script>alert(1)</script>"


def everything(workdir, **changes):
    return page_with_everything(workdir, **changes).read_text(encoding="utf-8")


class Page(HTMLParser):
    """What a page holds: its elements with their attributes, and its text by element."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.words, self._open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        if data.strip() and self._open[-1:] not in (["script"], ["style"]):
            self.words.append(" ".join(data.split()))

    def all(self, tag, **attributes):
        return [a for t, a in self.elements if t == tag and attributes.items() <= a.items()]


def test_the_page_asks_the_network_for_nothing(tmp_path):
    text = everything(tmp_path / "run")
    page = Page(text)
    targets = [a[key] for _, a in page.elements for key in ("src", "href") if key in a]
    assert len(targets) > 20
    for target in targets:
        assert re.match(r"data:|#|eval/attention\.png$", target), target
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest|import\(", text)
    [policy] = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert "default-src 'none'" in policy["content"]
    assert "img-src data:" in policy["content"]


def test_the_page_can_be_read_without_seeing_it(tmp_path):
    history = [{"step": s, "loss": 1.0, "lr": 0.01, "rank1": 0.5, "mAP": 0.5} for s in range(9)]
    page = Page(everything(tmp_path / "run", history=history))
    assert len(page.all("figure", **{"class": "chart"})) == 4
    assert page.all("html", lang="en")
    assert page.all("meta", name="viewport", content="width=device-width, initial-scale=1")
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(set(ids)) == len(ids)
    for _, a in page.elements:
        for key in ("aria-labelledby", "aria-describedby", "for"):
            assert a.get(key, ids[0]) in ids
        if a.get("href", "").startswith("#"):
            assert a["href"][1:] in ids
        assert not [name for name in a if name.startswith("on")]
    assert all(a["alt"] for a in page.all("img"))
    assert all(a["scope"] in ("col", "row") for a in page.all("th"))
    assert len(page.all("h1")) == len(page.all("main")) == 1


def test_scores_stand_beside_the_papers(tmp_path):
    page = Page(everything(tmp_path / "duatm"))
    start = page.words.index("this run")
    assert page.words[start : start + 11] == [
        *("this run", "the paper’s"),
        *("rank-1", "75.0", "91.4"),
        *("rank-5", "90.0", "–"),
        *("mAP", "50.0", "–"),
    ]
    assert "theirs" in page.all("td", **{"class": "number theirs"})[0]["class"]
    start = page.words.index("How they were measured")
    assert page.words[start + 1 : start + 5] == [
        "3,368 queries against 15,913 gallery items",
        "7 queries without a match in the gallery, not counted",
        "AP definition: trapezoid",
        "flip augmentation: off",
    ]
    assert (page.words[2], page.words[3]) == ("duatm", "Scored on market1501")
    start = page.words.index("2 keys")
    assert page.words[start + 4 :][:4] == ["data.image_size", "[256, 128]", "train.steps", "7"]


def test_what_is_not_known_is_left_out(tmp_path):
    path = write_page(tmp_path / "new" / "run", config={}, scores=SCORES)
    page = Page(path.read_text(encoding="utf-8"))
    assert [a["id"] for a in page.all("section")] == ["scores", "config"]
    assert [a["href"] for a in page.all("a")] == ["#main", "#scores", "#config"]
    assert "the paper’s" not in page.words
    assert not page.all("img")
    with pytest.raises(ValueError, match=r"a score is 75\.0; expected a fraction"):
        write_page(tmp_path, config={}, scores={"rank1": 75.0})


def test_hostile_names_are_only_text(tmp_path):
    workdir = tmp_path / "<img src=x onerror=alert(1)>"
    text = everything(
        workdir,
        scores={**SCORES, "data": HOSTILE, "notes": f"'\"{HOSTILE}"},
        paper_source=HOSTILE,
        config={HOSTILE: HOSTILE},
        looks=pair_looks()._replace(
            maps={f"</script>{HOSTILE}": AttentionMap(np.ones((2, 2, 4, 2)), "self", ("<b>", "&"))}
        ),
        history=[],
    )
    page = Page(text)
    assert text.count("<script>") == 1  # the page's own
    assert len(page.all("script")) == 2
    assert not page.all("img", src="x")
    assert HOSTILE not in text
    assert workdir.name in page.words
    looks = text[text.index('id="looks">') + len('id="looks">') :].split("</script>")[0]
    assert json.loads(looks)["maps"][0]["name"] == f"</script>{HOSTILE}"


def test_a_value_that_a_page_needs_and_does_not_get_is_an_error():
    with pytest.raises(Exception, match="'title' is undefined"):
        render("base.html")


def test_pictures_are_small_and_keep_their_shape():
    uri = picture(grey(256, 128), 64)
    data = base64.b64decode(uri.removeprefix("data:image/jpeg;base64,"))
    assert data[:2] == b"\xff\xd8"
    size = re.search(rb"\xff\xc0..\x08(..)(..)", data, re.DOTALL)
    assert [int.from_bytes(x) for x in size.groups()] == [64, 32]


def test_leaves_say_what_was_found():
    found = leaf(ranked_row(1204, 0.0312))
    assert (found.outcome, found.title) == ("miss", "person 7, camera 1")
    assert found.verdict == "first match at rank 1,204 · AP 3.1 %"
    assert [(each.kind, each.head) for each in found.items] == [
        ("query", "query"),
        ("miss", "✗ 1"),
        ("miss", "✗ 2"),
        ("hit", "✓ 1,204"),
    ]
    assert found.items[1].lines == ["pid 9", "cam 2", "0.100"]
    assert found.items[3].alt == ("Rank 1204, the same person: person 7, camera 2, distance 0.300")
    assert leaf(ranked_row(1, 1.0)).outcome == "hit"
    nobody = leaf(ranked_row(0, np.nan))
    assert (nobody.outcome, nobody.verdict) == ("none", "no match in the gallery")
    assert leaf(ranked_row(distances=[10.0, 250.26])).items[2].lines[2] == "250.3"


def test_galleries_show_every_query_in_order(tmp_path):
    page = Page(everything(tmp_path / "run"))
    assert [a["data-outcome"] for a in page.all("li", **{"class": "row"})] == [
        *("miss", "miss", "hit", "none")
    ]
    words = " ".join(page.words)
    assert "all (4) hits (1) misses (2)" in words
    assert len(page.all("figure", **{"class": "item query"})) == 4
    assert len(page.all("figure", **{"class": "item hit"})) == 3


def test_attention_is_bytes_of_the_peak():
    found = attention(pair_looks())
    assert (found["clips"], found["paired"], found["grid"]) == (False, True, [4, 2])
    assert [(m["name"], m["over"], m["grid"]) for m in found["maps"]] == [
        ("intra", "self", [4, 2]),
        ("inter", "partner", [4, 2]),
    ]
    first = found["items"][0]
    assert first["words"] == "query: person 7, camera 1"
    assert first["cells"] == list(range(8))
    assert first["maps"][0]["peaks"] == [0.25] * 8
    intra, inter = (
        np.frombuffer(base64.b64decode(m["data"]), np.uint8).reshape(8, 8) for m in first["maps"]
    )
    np.testing.assert_array_equal(intra, 255 * np.eye(8))
    np.testing.assert_array_equal(inter, 255 * np.eye(8)[::-1])
    heat = np.frombuffer(base64.b64decode(found["heat"]), np.uint8).reshape(256, 3)
    assert heat[0].tolist() == [0, 0, 3]
    assert heat[255].tolist() == [252, 254, 164]
    json.dumps(found)


def test_attention_over_clips_runs_to_the_peak_of_the_clip_and_shows_some_frames():
    weights = np.zeros((2, 40, 1, 1), np.float32)
    weights[0, :, 0, 0] = np.arange(40) / 80
    batch = Batch(np.full((2, 40, 8, 4, 3), 9, np.uint8), np.array([3, 4]), np.array([1, 2]))
    found = attention(Looks(batch, {"when": AttentionMap(jnp.asarray(weights), "frames")}))
    assert found["frames"] == [2, 4, 7, 9, 12, 14, 17, 19, 22, 24, 27, 29, 32, 34, 37, 39]
    query, item = found["items"]
    assert len(query["pictures"]) == 16
    assert query["maps"][0]["peaks"][:2] == [0.0125, 0.0375]  # of frames 2 and 4
    values = np.frombuffer(base64.b64decode(query["maps"][0]["data"]), np.uint8)
    assert values[[0, 7, 15]].tolist() == [round(255 / 38), round(255 * 18 / 38), 255]
    assert item["words"] == "gallery item: person 4, camera 2"
    assert set(base64.b64decode(item["maps"][0]["data"])) == {0}  # nothing was looked at


def test_masks_over_clips_run_over_the_range_of_each_frame():
    weights = np.linspace(0.4, 0.6, 2 * 3 * 8, dtype=np.float32).reshape(2, 3, 4, 2)
    batch = Batch(np.full((2, 3, 8, 4, 3), 9, np.uint8), np.array([3, 4]), np.array([1, 2]))
    found = attention(Looks(batch, {"mask": AttentionMap(weights, "frames", shown="range")}))
    mask = found["items"][1]["maps"][0]
    np.testing.assert_allclose(mask["least"], weights[1].min(axis=(1, 2)), rtol=1e-3)
    np.testing.assert_allclose(mask["peaks"], weights[1].max(axis=(1, 2)), rtol=1e-3)
    values = np.frombuffer(base64.b64decode(mask["data"]), np.uint8).reshape(3, 8)
    np.testing.assert_allclose(values, np.linspace(0, 255, 8)[None].repeat(3, axis=0), atol=1)


def test_distractors_are_told_from_other_persons():
    found = leaf(ranked_row(1, pids=[7, 0])).items
    assert [item.kind for item in found] == ["query", "hit", "distractor"]
    assert found[2].alt.startswith("Rank 2, a distractor: ")


def test_names_of_maps_are_kept_and_numbers_stand_in_for_them():
    batch = Batch(np.stack([grey()] * 2), np.array([7, 7]), np.array([1, 2]))
    ones = np.ones((2, 2, 4, 2))
    maps = {"a": AttentionMap(ones, "self", ("body", "parts")), "b": AttentionMap(ones, "self")}
    found = attention(Looks(batch, maps))
    assert [m["names"] for m in found["maps"]] == [["body", "parts"], ["1", "2"]]
    assert [item["words"].split(":")[0] for item in found["items"]] == ["image", "image"]
    assert found["grid"] is found["items"][0]["cells"] is None


def test_cameras_are_scored_apart(tmp_path):
    page = Page(everything(tmp_path / "run"))
    start = page.words.index("query camera")
    assert page.words[start + 6 : start + 18] == [
        *("1", "3", "3", "66.7", "20.8–93.9", "77.8"),
        *("2", "2", "2", "50.0", "9.5–90.5", "66.7"),
    ]


@pytest.mark.parametrize(
    ("share", "count", "want"),
    # From R's `prop.test(x, n, correct = FALSE)`.
    [(0.0, 8, (0.0, 0.3244)), (0.5, 10, (0.2366, 0.7634)), (1.0, 20, (0.8389, 1.0))],
)
def test_intervals(share, count, want):
    assert wilson(share, count) == pytest.approx(want, abs=1e-4)


def test_lengths_of_clips_are_a_table(tmp_path):
    page = Page(everything(tmp_path / "run"))
    start = page.words.index("Length of clips")
    assert page.words[start + 2 : start + 10] == [
        *("1", "8"),
        *("1", "10.0", "20.0"),
        *("8", "30.0", "40.0"),
    ]
    cells = [a["style"] for a in page.all("td") if "style" in a]
    assert cells == ["--share: 0.0", "--share: 0.333", "--share: 0.667", "--share: 1.0"]


def test_splits_are_linked(tmp_path):
    splits = {"split0": {"rank1": 0.5, "mAP": 0.25}, "split1": {"rank1": 1.0, "mAP": 0.75}}
    path = write_page(tmp_path / "run", config={}, scores=SCORES, splits=splits)
    page = Page(path.read_text(encoding="utf-8"))
    links = [a["href"] for a in page.all("a")]
    assert links[-2:] == ["split0/report.html", "split1/report.html"]
    start = page.words.index("split0")
    assert page.words[start : start + 6] == ["split0", "50.0", "25.0", "split1", "100.0", "75.0"]


def test_cmc_is_drawn_to_scale():
    found = cmc_chart(np.array([0.5, 0.75, 1.0]))
    # From x = 64 to 506 and from y = 254 (50 %) up to 14 (100 %).
    assert found.lines[0].path == "M64 254L285 134L506 14"
    assert [(t.at, t.words) for t in found.x_ticks] == [(64, "1"), (285, "2"), (506, "3")]
    assert [t.words for t in found.y_ticks] == ["50", "60", "70", "80", "90", "100"]
    assert found.readings[1] == (285, [134], "rank 2: queries matched 75.0 %")
    assert found.table == [["1", "50.0 %"], ["2", "75.0 %"], ["3", "100.0 %"]]


def test_training_takes_the_last_record_of_a_step_and_the_mean_of_many():
    history = [
        {"step": 1, "loss": 3.0, "lr": 0.1},
        {"step": 2, "loss": 9.0, "lr": 0.1},
        {"step": 2, "loss": 1.0, "lr": 0.001, "rank1": 0.25, "mAP": 0.125},
        {"step": 3, "rank1": 0.5, "mAP": 0.25},
    ]
    loss, rate, scores = training_charts(history)
    assert [reading.words for reading in loss.readings] == ["step 1: loss 3", "step 2: loss 1"]
    assert [t.words for t in rate.y_ticks] == ["0.001", "0.01", "0.1"]
    assert np.diff([t.at for t in rate.y_ticks]) == pytest.approx([-120, -120])  # logarithmic
    assert scores.readings[1].words == "step 3: rank-1 50.0 %, mAP 25.0 %"
    assert [line.name for line in scores.lines] == ["rank-1", "mAP"]
    long = [{"step": s, "loss": float(s % 2)} for s in range(1, 4801)]
    [chart_of_many] = training_charts(long)
    assert len(chart_of_many.readings) == 240
    assert {reading.words.split(": ")[1] for reading in chart_of_many.readings} == {"loss 0.5"}
    assert len(chart_of_many.table) == 25
    assert training_charts([{"step": 1, "rank1": 0.5}]) == []


def test_a_line_has_a_gap_where_a_value_is_missing():
    x, y = np.arange(4), np.array([0.0, np.nan, 1.0, 0.5])
    found = chart("c", "title", "step", {"loss": (x, y)}, str)
    assert re.sub(r"[\d. ]+", "", found.lines[0].path) == "MML"
    assert found.readings[1].words == "step 1: loss –"
    assert found.readings[1].marks == [None]


@pytest.mark.parametrize("values", [[0.05], [0.05, 0.05], [0.0, 0.0], [np.nan, np.nan]])
def test_a_chart_of_next_to_nothing(values):
    found = chart("c", "t", "step", {"lr": (np.arange(len(values)), np.array(values))}, str)
    assert len({tick.words for tick in found.y_ticks}) == len(found.y_ticks) > 1
    assert all(14 <= mark <= 254 for r in found.readings for mark in r.marks if mark is not None)

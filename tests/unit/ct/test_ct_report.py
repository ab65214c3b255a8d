"""A report says what was measured, to every reader, and what is in it can do no harm."""

import copy
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from itertools import combinations

import pytest

from llm_twin.ct import plots
from llm_twin.ct.report import html, markdown, write
from llm_twin.model import profile
from llm_twin.model.gate import gate

EVIL = "<script>alert(1)</script>\"'&|`*_[x](javascript:alert(1))\n# heading"
SVG = "{http://www.w3.org/2000/svg}"


def items(values):
    return [{"id": str(at), "value": value} for at, value in enumerate(values)]


def figures_of(bits, hit, author):
    spread = [at / 100 for at in range(20)]
    return {
        "language": {
            "bits_per_character": bits, "perplexity": 180.25, "untrained": 4.9, "unigram": 3.4,
            "trigram": 2.5, "characters": 40_210, "tokens": 9_000, "n": 20,
            "items": items([bits + one for one in spread]),
        },
        "retrieval": {
            "hit@1": hit - 0.2, "hit@5": hit, "mrr": hit - 0.1, "n": 20,
            "items": items([hit + one * (-1) ** at for at, one in enumerate(spread)]),
        },
        "style": {
            "author": author, "accuracy": 0.93, "n": 12, "why": "",
            "reference": {"author": {"author": 0.88}, "a control": {"author": 0.11}},
            "items": items([author] * 12),
        },
        "answers": {"groundedness": 0.78, "cited": 0.9, "n": 60, "items": []},
        "refusal": {"refused": 0.95, "n": 20, "items": []},
    }  # fmt: skip


def curve():
    points = []
    for phase, count in (("pretrain", 900), ("sft", 40), ("dpo", 1)):
        for step in range(1, count + 1):
            points.append({"phase": phase, "step": step, "loss": 5 / step, "rate": 1e-4 / step})
            if step % 10 == 0:
                points.append({"phase": phase, "step": step, "evaluation": 6 / step})
    return points


def full():
    ours, theirs = figures_of(2.3, 0.8, 0.42), figures_of(2.45, 0.79, 0.55)
    rule = profile.Gate(margins={"language": 0.1, "retrieval": 0.0, "style": 0.05, "answers": 0})
    verdict = gate(ours, theirs, rule, data_changed=False)
    return {
        "corpus": "docs",
        "collected": {"documents": 40, "reused": 3, "skipped": []},
        "cleaned": {"documents": 38, "characters": 412_000, "dropped": []},
        "indexed": {"chunks": 612, "embedder": "minilm"},
        "feedback": {"taken": 3, "digest": "abcdef0123", "questions": 2, "heldout": 0},
        "dataset": {"digest": "0123456789", "pairs": 120, "verdicts": ["nothing leaks"]},
        "trained": {
            "parameters": 3_200_000,
            "cpu_seconds": 58.25,
            "base": {"model": "scratch", "license": ""},
        },
        **ours,
        "judged": {"score": 0.61, "noise": 0.05, "n": 5},
        "preference": {"preferred": 0.7, "n": 9},
        "production": theirs,
        "verdict": verdict.to_dict(),
        "version": "20260101-000000-abcd",
        "profile": profile.Profile(name="laptop", description="Small.", gate=rule).model_dump(),
        "curves": curve(),
        "wall_seconds": 101.4,
        "cpu_seconds": 130.2,
        "peak_mb": 910,
    }


def pictures(page):
    return [ET.fromstring(one) for one in re.findall(r"<svg.*?</svg>", page, re.S)]


class Page(HTMLParser):
    """The tags of a page, each with its attributes, its text, and whether all tags were closed."""

    EMPTY = ("meta",)

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_a_page_says_what_was_measured():
    text = " ".join(Page(html(full())).text)
    for told in (
        "Training: promoted 20260101-000000-abcd",
        "Small.",
        "Held-out text: the candidate is better, -0.150 bits per character",
        "38 of 40",
        "412,000",
        "58.2 CPU seconds",
        "101.4 s wall, 130.2 CPU seconds, 910 MB at most",
        "language.bits_per_character",
        "2.300",
        "2.450",
        "the author, held out",
        "a control",
        "0.110",
        "judged.score",
        "preference.preferred",
        "nothing leaks",
        "training.sft.epochs",
        "interval",
    ):
        assert told in text, told


def test_each_plot_is_described_named_once_and_has_its_table():
    page = html(full())
    drawn = pictures(page)
    headings = [one.find(f"{SVG}title").text for one in drawn]
    assert headings == [
        "Paired differences, candidate minus production",
        "Loss in phase pretrain",
        "Learning rate in phase pretrain",
        "Loss in phase sft",
        "Learning rate in phase sft",
        "Loss in phase dpo",
        "Learning rate in phase dpo",
        "Bits per character on held-out text",
        "Probability that a text is the author's",
        "Retrieval",
        "Answers",
        "Refusal",
        "The judge",
        "Preference",
    ]
    names = []
    for one in drawn:
        assert one.get("role") == "img"
        assert one.find(f"{SVG}desc").text
        labels = one.get("aria-labelledby").split()
        assert labels == [one.find(f"{SVG}{tag}").get("id") for tag in ("title", "desc")]
        names += labels
    assert len(set(names)) == len(names)
    after = re.findall(r"</figcaption></figure>(<div|<figure|<h2)", page)
    assert after.count("<div") == len(drawn) - 3, "all but the three rates have a table"


def boxes(svg):
    for one in svg.iter(f"{SVG}text"):
        width = len(one.text) * plots.LETTER
        x, y = float(one.get("x")), float(one.get("y"))
        start = x - {"start": 0, "middle": width / 2, "end": width}[one.get("text-anchor")]
        yield one.text, (start, y - 10, start + width, y + 3)


LONG = "a control whose name is much longer than there is room for " * 2


@pytest.mark.parametrize("name", ["a control", LONG])
def test_no_label_meets_another_or_leaves_its_picture(name):
    report = full()
    report["style"]["reference"][name] = {"author": 1.0}
    for phase, rate in (("pretrain", 1.25e-5), ("sft", 123456.0)):
        report["curves"] += [{"phase": phase, "step": 10**6, "loss": rate, "rate": rate}]
    for svg in pictures(html(report)):
        _, _, width, height = map(float, svg.get("viewBox").split())
        found = list(boxes(svg))
        for text, (left, top, right, bottom) in found:
            assert left >= -1, text
            assert right <= width + 1, text
            assert top >= -1, text
            assert bottom <= height + 1, text
        for (text, one), (other, two) in combinations(found, 2):
            apart = one[2] <= two[0] or two[2] <= one[0] or one[3] <= two[1] or two[3] <= one[1]
            assert apart, (svg.find(f"{SVG}title").text, text, other)


def spoiled(value):
    """The same report with something evil wherever there is text."""
    if isinstance(value, dict):
        return {key: spoiled(own) for key, own in value.items()}
    if isinstance(value, list):
        return [spoiled(own) for own in value]
    return EVIL if isinstance(value, str) else value


def test_text_in_a_report_is_only_text():
    report = spoiled(full())
    report["style"]["reference"][EVIL] = {"author": 0.5}
    report["profile"][EVIL] = EVIL
    page = Page(html(report))
    assert "script" not in {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, own in page.tags for name in own)
    assert not [own for _, own in page.tags if {"href", "src", "style"} & own.keys()]
    assert any("<script>alert(1)</script>" in text for text in page.text)
    pictures(html(report))
    told = markdown(report)
    assert not re.search(r"[<>`*_\[\]]|&(?!#\d+;)", told)
    for line in told.splitlines():
        assert line == "" or line.startswith(("### ", "- ", "| "))
    widths = [line.count("|") for line in told.splitlines() if line.startswith("| ")]
    assert set(widths) == {3, 5, 7}


def test_a_page_needs_nothing_from_elsewhere():
    page = html(full())
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", page)
    assert "@import" not in page
    assert "url(" not in page
    assert "default-src 'none'" in page
    assert "prefers-color-scheme: dark" in page


@pytest.mark.parametrize("left", sorted(full()))
def test_any_part_may_be_absent(left):
    report = full()
    del report[left]
    Page(html(report))
    pictures(html(report))
    assert markdown(report).startswith("### Training: ")
    for empty in ({}, None, []):
        Page(html({**report, left: empty}))
        markdown({**report, left: empty})


@pytest.mark.parametrize(
    "group", ["trained", "language", "retrieval", "style", "verdict", "profile"]
)
def test_any_figure_may_be_absent(group):
    for name in full()[group]:
        report = full()
        del report[group][name]
        Page(html(report))
        markdown(report)


def test_an_empty_report_says_that_there_is_no_verdict():
    assert "Training: not promoted: no verdict" in Page(html({})).text
    assert markdown({}) == "### Training: not promoted: no verdict\n"


def test_figures_that_are_no_numbers_are_told_and_not_drawn():
    report = full()
    report["language"]["bits_per_character"] = float("nan")
    report["style"]["author"] = None
    report["curves"] = [
        {"phase": "sft", "step": 1, "loss": 2.0},
        {"phase": "sft", "step": 2, "loss": None},
        {"phase": "sft", "step": 3, "loss": float("inf")},
        {"phase": "sft", "step": 4, "loss": 1.0},
    ]
    text = " ".join(Page(html(report)).text)
    assert "At 2 steps it was not a number." in text
    assert "Probability that a text is the author's" not in text
    assert "nan" in text
    for svg in pictures(html(report)):
        assert "nan" not in ET.tostring(svg, encoding="unicode").lower()


def test_curves_that_are_all_gaps_draw_nothing():
    report = {"curves": [{"phase": "sft", "step": 1, "loss": None, "rate": None}]}
    assert pictures(html(report)) == []


def test_right_is_better_whichever_way_the_figure_counts():
    rows = [
        plots.Interval("bits", -0.2, -0.3, -0.1, 0.05, higher_is_better=False, text="better"),
        plots.Interval("hits", 0.2, 0.1, 0.3, 0.05, higher_is_better=True, text="better"),
        plots.Interval("worse", -0.2, -0.3, -0.1, 0.0, higher_is_better=True, text="worse"),
    ]
    svg = ET.fromstring(plots.intervals("t", "d", rows))
    first, second, third = (float(one.get("cx")) for one in svg.iter(f"{SVG}circle"))
    middle = plots.LABEL + (plots.WIDTH - plots.LABEL - plots.VALUE) / 2
    assert first == second > middle > third


def test_a_line_goes_through_its_points_and_stops_at_gaps():
    points = [(1, 1.0), (2, 2.0), (3, None), (4, 3.0), (5, 1.0)]
    svg = ET.fromstring(plots.lines("t", "d", "step", "loss", [plots.Series("a", points)]))
    (path,) = [
        one.get("d") for one in svg.iter(f"{SVG}path") if one.get("class").startswith("line")
    ]
    starts = re.findall(r"([ML])([\d.]+) ([\d.]+)", path)
    assert [pen for pen, _, _ in starts] == ["M", "L", "M", "L"]
    heights = [float(y) for _, _, y in starts]
    assert heights[2] < heights[1] < heights[0] == heights[3], "larger is higher"


@pytest.mark.parametrize("count", [1, 400, 401, 100_000])
def test_many_points_become_as_many_as_can_be_seen(count):
    thinned = plots.thin([(step, float(step)) for step in range(count)])
    assert len(thinned) == min(count, 400) if count <= 400 else 200 <= len(thinned) <= 400
    assert thinned[-1][0] >= count * 0.99 - 1
    gaps = plots.thin([(step, None if step == 7 else 1.0) for step in range(count)])
    assert sum(y is None for _, y in gaps) == (count > 7)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (3, 3), (0, 0), (-2, 5), (1e-9, 3e-9), (0.1, 1e9), (1, 1500)]
)
def test_ticks_are_few_round_and_inside(low, high):
    scale = plots.Scale.of([low, high], 0, 100)
    ticks = scale.ticks()
    assert 2 <= len(ticks) <= 7
    assert all(-1e-6 <= scale(tick) <= 100 + 1e-6 for tick in ticks)
    assert len({f"{tick:g}" for tick in ticks}) == len(ticks)


def test_a_report_is_written_whole_and_the_same_each_time(tmp_path):
    report = full()
    before = copy.deepcopy(report)
    page, told = write(report, tmp_path / "out")
    assert (page.name, told.name) == ("report.html", "report.md")
    assert page.read_text(encoding="utf-8") == html(json.loads(json.dumps(report)))
    assert told.read_text(encoding="utf-8") == markdown(report)
    assert write(report, tmp_path / "out") == (page, told)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "report.html",
        "report.md",
    ]
    assert report == before


def test_a_long_part_is_shortened():
    report = {"dataset": {"texts": ["word " * 99_999], **{f"n{at}": at for at in range(5_000)}}}
    assert len(html(report)) < 30_000
    assert "and 4881 more" in html(report)


def test_markdown_is_short_enough_to_read():
    told = markdown(full())
    assert len(told.splitlines()) < 60
    assert "| retrieval.hit&#64;5 | 0.800 | 0.790 | share, 0 to 1 |" in told
    assert "perplexity" not in told

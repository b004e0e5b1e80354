import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.yolov5_core.run_card_facts import HOSTILE, facts, failed, night, row, stage, stored
from tests.yolov5_core.test_report_html import URI, Page
from yolov5_core.run_card import run_card_html


def text_of(told: dict[str, Any]) -> str:
    return Page(run_card_html(told, [])).text


def test_the_first_words_are_the_verdict():
    text = Page(run_card_html(facts(), [])).text
    body = text[text.index("Run card of street") :]
    assert body.startswith(
        "Run card of street"
        "Better than the previous run: mAP50-95 0.500, up 0.100 from 0.400."
        "run tonight · ended 2026-01-02 03:00 UTC, after 1 h 00 min · compared with before"
    )


def test_the_important_things_come_first():
    text = text_of(facts())
    parts = (
        *("Better than", "training pictures", "What changed", "Data", "Training", "The last 2"),
        *("Classes", "Time", "Versions and settings", "Objects"),
    )
    places = [text.index(part, 200) for part in parts]
    assert places == sorted(places)


def test_a_failed_run_begins_with_what_where_why_and_what_to_do():
    text = text_of(failed("disk full"))
    body = text[text.index("Failed in train, attempt 2.") :]
    parts = (
        *("disk full", "OSError, exit code 75.", "A fault that may pass.", "What to do"),
        *("yolov5-retrain --resume tonight", "What is kept", "epoch 4 (0-8)", "What changed"),
    )
    places = [body.index(part) for part in parts]
    assert places == sorted(places)


def test_a_run_that_failed_before_anything_makes_a_card():
    told = failed(
        stages=[], unfinished="prepare", checkpoint=None, data=None, data_page="", results=[],
        previous=None, nights=[], night=night(map50_95=None, counts={}, when="", status="failed"),
    )  # fmt: skip
    text = text_of(told)
    assert "The settings in run.json; no stage was done yet." in text
    assert "created 2026-01-02 02:00 UTC" in text


def test_the_gates_of_a_stopped_run_lead_to_the_data_report():
    told = failed(status="stopped", unfinished="prepare")
    told["fault"]["by"] = "gate"
    page = Page(run_card_html(told, []))
    links = [dict(attributes)["href"] for tag, attributes in page.tags if tag == "a"]
    assert links[0] == "./data/report.html"
    assert "Correct the data as the data report says" in page.text


def test_a_traceback_is_there_but_closed():
    told = failed()
    told["fault"]["trace"] = "Traceback: line 1\n  line 2"
    html = run_card_html(told, [])
    assert "<details><summary" in html
    assert "Traceback: line 1\n  line 2" in html


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("make", [facts, failed])
def test_no_text_of_strangers_becomes_markup(hostile: str, make: Any):
    usual = Page(run_card_html(make("usual "), [("caption", URI)]))
    page = Page(run_card_html(make(hostile), [(hostile, URI)]))
    assert shape(page) == shape(usual)
    assert hostile in page.text


@settings(max_examples=25)  # each builds a page
@given(st.text(max_size=20))
def test_no_text_at_all_becomes_markup(text: str):
    usual = Page(run_card_html(facts("usual "), []))
    assert shape(Page(run_card_html(facts(f"a{text}"), []))) == shape(usual)


def shape(page: Page) -> list[tuple[str, list[str]]]:
    """Tags with the names of their attributes; a name of an object may change its link."""
    return [(tag, [name for name, _ in attributes]) for tag, attributes in page.tags]


def test_the_page_fetches_nothing_and_runs_nothing():
    html = run_card_html(facts(), [("a", URI)])
    page = Page(html)
    tags = {tag for tag, _ in page.tags}
    assert not {"script", "link", "iframe", "form", "object", "base"} & tags
    names = {name for _, attributes in page.tags for name, _ in attributes}
    assert not [name for name in names if name.startswith("on")]
    assert [dict(a)["src"] for tag, a in page.tags if tag == "img"] == [URI]
    assert not re.search(r"url\(|@import", html)
    assert "default-src 'none'" in html


def test_links_lead_to_the_run_or_to_the_bucket_alone():
    page = Page(run_card_html(facts(objects=[stored("javascript:alert(1)")]), []))
    links = [dict(attributes)["href"] or "" for tag, attributes in page.tags if tag == "a"]
    assert links
    assert all(link.startswith(("./", "https://127.0.0.1/")) for link in links)


def test_every_object_has_its_size_and_checksum():
    told = facts(objects=[stored(f"plots/{i}.png", "plot", sha256=f"{i}" * 64) for i in range(3)])
    text = text_of(told)
    assert all(f"plots/{i}.png1.2 kB{f'{i}' * 64}" in text for i in range(3))


def test_the_best_epoch_is_marked():
    assert run_card_html(facts(), []).count('class="marked"') == 5  # once in every chart
    assert 'class="marked"' not in run_card_html(facts(best_epoch=None), [])


def test_epochs_without_an_evaluation_leave_a_gap():
    unknown = dict.fromkeys(
        ("precision", "recall", "map50", "map50_95", "val_box", "val_obj", "val_cls")
    )
    told = facts(results=[row(0, **unknown), row(1, **unknown), row(2)], best_epoch=2)
    assert "epoch 1: nothing known" in run_card_html(told, [])
    assert "epoch 2: mAP50-95 0.3, mAP50 0.8" in run_card_html(told, [])


def test_an_early_peak_does_not_flatten_the_rest():
    rows = [row(0, val_obj=100.0), row(1), row(2), row(3)]
    html = run_card_html(facts(results=rows, best_epoch=3), [])
    assert html.count("early peaks cut") == 2  # the title and what a screen reader says
    assert "epoch 0: training 0.5, validation 100" in html
    assert ">100<" not in html  # not on the axis


def test_a_metric_that_collapsed_is_shown_whole():
    rows = [row(0, map50=0.9), *(row(i, map50=0.01, map50_95=0.001) for i in (1, 2, 3))]
    html = run_card_html(facts(results=rows, best_epoch=0), [])
    assert "early peaks cut" not in html


def test_a_night_that_failed_is_crossed_and_has_no_figure():
    lost = night("lost", 0.99, status="failed", created="2026-01-01T12:00:00+00:00")
    told = facts(nights=[night("before", 0.4), lost, night()])
    html = run_card_html(told, [])
    assert html.count('class="failed"') == 3  # in each of the three charts
    assert "1 did not complete" in html
    assert "lost, 2026-01-01 12:00 UTC: did not complete" in html


def test_each_attempt_has_its_bar_host_and_container():
    text = text_of(facts())
    assert "train102:01:0030 min 00 s" in text
    assert "host-a 0123456789ab" in text  # short, as Docker shows it


def test_a_long_pause_is_drawn_short():
    late = stage("plot")
    late["done"]["started"] = "2026-01-05T02:00:00+00:00"
    html = run_card_html(facts(stages=[stage("train"), late]), [])
    assert "Long pauses are drawn short." in html
    lefts = [float(found) for found in re.findall(r"<i style=\"left:([\d.]+)%", html)]
    assert lefts == pytest.approx(
        [
            0,
            100 * 36 / 66,
        ],
        abs=0.1,
    )  # 30 min, pause 6, 30 min


def test_a_large_run_stays_below_a_megabyte_without_its_pictures():
    names = [f"class number {i} with a long name" for i in range(2000)]
    rows = [{"class": n, "labels": 5, "P": 0.5, "R": 0.5, "mAP50": 0.5, "mAP50-95": 0.5}
            for n in ("all", *names)]  # fmt: skip
    told = facts(
        night=night(classes=dict.fromkeys(names, 0.1)),
        results=[row(i, map50_95=0.5) for i in range(3000)],
        objects=[stored(f"plots/{i}.png", "plot") for i in range(5000)],
        nights=[night(f"n{i}") for i in range(30)],
    )
    told["evaluation"]["classes"] = rows
    assert len(run_card_html(told, [])) < 1_000_000


def test_the_same_facts_give_the_same_page():
    assert run_card_html(facts(), [("a", URI)]) == run_card_html(facts(), [("a", URI)])


def test_any_text_can_be_written_as_utf_8():
    told = facts(b"\xff.jpg".decode("utf-8", "surrogateescape"))
    assert run_card_html(told, []).encode()


def test_what_could_not_be_read_is_said():
    assert "Not on this card: data report: damaged" in text_of(
        facts(remarks=["data report: damaged"])
    )


def test_the_rule_for_about_the_same_is_stated():
    assert "below 0.01, of one class below 0.02, count as about the same" in text_of(facts())
    assert "signific" not in text_of(facts())

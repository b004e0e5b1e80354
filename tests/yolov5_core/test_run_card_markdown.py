import re

import pytest

from tests.yolov5_core.run_card_facts import HOSTILE, facts, failed, night, stored
from yolov5_core.run_card_markdown import run_card_markdown


def test_it_begins_with_the_verdict():
    assert run_card_markdown(facts()).splitlines()[0] == (
        "# Better than the previous run: mAP50-95 0.500, up 0.100 from 0.400."
    )


def test_an_object_in_a_bucket_has_its_url_as_text_and_a_link():
    text = run_card_markdown(facts())
    assert "`gs://b/runs/tonight/weights/best.pt`" in text
    assert "[open](<https://127.0.0.1/b/runs/tonight/weights/best.pt>)" in text


def test_an_object_in_a_folder_is_text_alone():
    told = facts(objects=[stored("a", url="/store/a", link="")], published=[], link="")
    text = run_card_markdown(told)
    assert "| `/store/a` |  | 1.2 kB |" in text
    assert "](" not in text


def test_a_failure_comes_before_everything_else():
    lines = run_card_markdown(failed("disk full")).splitlines()
    assert lines[0] == "# Failed in train, attempt 2."
    assert lines.index("> disk full") < lines.index("**What to do**")
    assert "- go on: `yolov5-retrain --resume tonight disk full`" in lines


def test_metrics_have_their_differences():
    text = run_card_markdown(facts())
    assert "| mAP50-95 | 0.500 | 0.400 | +0.100 |" in text
    assert "| mAP50-95 of cat | 0.500 | 0.400 | +0.100 |" in text


def test_settings_that_differ_are_there_with_both_values():
    assert "| epochs | 1 | 2 |" in run_card_markdown(facts())


@pytest.mark.parametrize("hostile", [*HOSTILE, "|`x`|\n# head", "[a](b)"])
def test_no_text_of_strangers_becomes_markup(hostile: str):
    usual = run_card_markdown(failed("usual"))
    text = run_card_markdown(failed(hostile.replace("\n", " ")))
    assert len(text.splitlines()) == len(usual.splitlines())
    plain = re.sub(r"`[^`]*`|\\.", "", text)  # without code and what is escaped
    assert plain.count("`") == 0
    assert not re.search(r"<script|<img|<b>|\[a\]", plain)


def test_it_never_exceeds_what_prefect_shows():
    names = [f"{i} {'long name ' * 30}" for i in range(500)]
    told = facts(
        night=night(classes=dict.fromkeys(names, 0.5)),
        objects=[stored(f"{'x' * 900}{i}") for i in range(1000)],
        remarks=["y" * 1000] * 200,
    )
    assert len(run_card_markdown(told).encode()) <= 300_000

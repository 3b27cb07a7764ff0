"""Texts with their skills marked."""

import re

from helpers.highlight import marked

TEXT = "Either the arrow, a mirror of heavy dreams, turns or all is lost. The bow waits."


def test_marks_each_skill_where_it_stands_and_names_the_others():
    page = marked(TEXT, ["metaphor", "litotes", "false dilemma"])
    words = re.findall("<mark [^>]*>(.*?) <small><b>\\[(.*?)\\]</b></small></mark>", page)
    assert words == [
        ("Either", "false dilemma"),
        ("a mirror of heavy dreams", "metaphor"),
        ("or all is lost", "false dilemma"),
    ]
    page = marked(TEXT, ["metaphor", "litotes"])
    assert page.count("<mark ") == 1
    assert "a mirror of heavy dreams <small>" in page
    assert page.endswith("[not marked: litotes]</small>")


def test_marks_nothing_of_a_skill_that_no_detector_knows_and_escapes_what_it_shows():
    page = marked("<script>alert('İ')</script> a > b", ['<img src="x">'])
    assert "<mark" not in page
    assert "<script>" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page


def test_overlapping_places_are_marked_once():
    text = "The arrow, a mirror of heavy dreams, turns."
    page = marked(text, ["metaphor", "metaphor"])
    assert page.count("<mark ") == 1

"""Texts with their skills marked."""

import re

from helpers.mark import marked

TEXT = "What is life without the hedge, and The arrow is a mirror of heavy dreams."


def test_marks_each_skill_where_it_stands_and_names_the_others():
    page = marked(TEXT, ["metaphor", "litotes", "rhetorical question"])
    words = re.findall("<mark [^>]*>(.*?) <small><b>\\[(.*?)\\]</b></small></mark>", page)
    assert words == [
        ("What is life without the hedge", "rhetorical question"),
        ("The arrow is a mirror of heavy dreams", "metaphor"),
    ]
    page = marked(TEXT, ["metaphor", "litotes"])
    assert page.count("<mark ") == 1
    assert "The arrow is a mirror of heavy dreams <small>" in page
    assert page.endswith("[not marked: litotes]</small>")


def test_marks_nothing_of_a_skill_that_no_detector_knows_and_escapes_what_it_shows():
    page = marked("<script>alert('İ')</script> a > b", ['<img src="x">'])
    assert "<mark" not in page
    assert "<script>" not in page
    assert "<img" not in page
    assert "&lt;script&gt;" in page


def test_overlapping_places_are_marked_once():
    text = "The arrow is a mirror of heavy dreams."
    page = marked(text, ["metaphor", "metaphor"])
    assert page.count("<mark ") == 1

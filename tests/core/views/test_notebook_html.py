"""HTML for notebooks: whatever a repository says stays text."""

from __future__ import annotations

import math
import re
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from replicate_core.views import notebook_html

HOSTILE = "<script>alert('1')</script> & \"<b\" $x^2$ \x1b[2J\u202e\ud800"


class Reader(HTMLParser):
    """Reads HTML as a browser does: its tags, and the text between."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert all(name in ("class", "style") for name, _ in attrs)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@given(st.text())
def test_no_text_becomes_markup_and_none_is_lost(content: str) -> None:
    read = Reader(f"<p>{notebook_html.text(content)}</p>")
    assert read.tags == ["p"] + ["br"] * content.count("\n")
    shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in content if char != "\n")
    assert "".join(read.texts) == shown


def test_every_part_of_a_page_is_escaped() -> None:
    page = notebook_html.page(
        notebook_html.heading(HOSTILE),
        notebook_html.facts({HOSTILE: HOSTILE, "left out": None}),
        notebook_html.table([HOSTILE, "b"], [[HOSTILE, HOSTILE]], bold=[0]),
        notebook_html.line(HOSTILE),
    )
    assert set(Reader(page).tags) == {"div", "p", "strong", "table", "tr", "th", "td", "thead", "tbody"}
    assert "<script" not in page
    assert not re.search("[\x1b\u202e\ud800]", page)
    assert page.encode("utf-8")
    assert "left out" not in page


def test_formulas_are_left_alone() -> None:
    assert notebook_html.page("").startswith('<div class="replicate tex2jax_ignore mathjax_ignore">')


def test_nothing_is_shown_of_nothing() -> None:
    assert notebook_html.facts({"a": None}) == ""
    assert notebook_html.table(["full", "empty"], [["1", ""], ["2", ""]]).count("<th") == 1 + 1, (
        "thead, and one heading"
    )


def test_the_row_that_counts_is_stressed() -> None:
    table = notebook_html.table(["a"], [["first"], ["second"]], bold=[1])
    assert "<strong>second</strong>" in table
    assert "<strong>first" not in table


def test_values_are_short() -> None:
    values = [0.123456789, math.nan, 3, None, True, "text", [1, 2], {"a": "ü"}, "x" * 100]
    shown = ["0.12346", "nan", "3", "null", "true", "text", "[1, 2]", '{"a": "ü"}', "x" * 59 + "…"]
    assert [notebook_html.value(value) for value in values] == shown
    assert notebook_html.pairs({"a": 1, "b": 0.5}) == "a=1\nb=0.5"


def test_times_are_of_one_zone() -> None:
    local = datetime(2026, 11, 23, 12, 0, 5, tzinfo=timezone(timedelta(hours=2)))
    assert notebook_html.moment(local) == "2026-11-23 10:00:05 UTC"

"""Values, sizes and durations read the same wherever they are shown."""

from __future__ import annotations

import math
from datetime import timedelta

from replicate_core import formatting


def test_values_are_cut_to_what_there_is_room_for() -> None:
    long = "x" * 100
    values = [0.123456789, math.nan, 3, None, True, "text", [1, 2], {"a": "ü"}, long]
    shown = ["0.12346", "nan", "3", "null", "true", "text", "[1, 2]", '{"a": "ü"}']
    assert [formatting.value(value, characters=10) for value in values] == [*shown, "x" * 9 + "…"]
    assert [formatting.value(value, characters=None) for value in values] == [*shown, long]
    assert formatting.pairs({"a": 1, "b": "long"}, characters=3) == "a=1\nb=lo…"


def test_durations_are_in_whole_seconds() -> None:
    assert [formatting.elapsed(timedelta(seconds=seconds)) for seconds in (3723.5, 5)] == ["1:02:03", "0:00:05"]


def test_sizes_have_units_of_a_thousand() -> None:
    sizes = {0: "0 B", 999: "999 B", 1500: "1.5 kB", 32_000_000: "32 MB", 7 * 10**9: "7 GB", 8 * 10**13: "80 TB"}
    assert {count: formatting.size(count) for count in sizes} == sizes


def test_counts_have_a_separator_of_thousands_and_a_plural() -> None:
    shown = [formatting.count(number, "job") for number in (0, 1, 2, 1000)]
    assert shown == ["0 jobs", "1 job", "2 jobs", "1,000 jobs"]

"""What a quotation may cut, and what it must keep whole."""

from __future__ import annotations

from itertools import pairwise

import pytest

from llm_twin.serving.passages import split, windows

MIXED = """Before you start you need these things:

- a jar with a lid
- a wooden spoon
- a warm shelf

Feed it at night. This keeps it alive, e.g. in winter. It smells of apples then. Dr. Rye agreed.

```python
x = 1. + 2.

print("not. a. sentence.")
```

| flour | grams |
|-------|-------|
| rye   | 50    |
"""


def quotes(text: str) -> list[str]:
    units = split(text)
    return [window.quote(text, units) for window in windows(units)]


def test_lists_code_and_tables_are_one_unit_each() -> None:
    assert [unit.kind for unit in split(MIXED)] == [
        "sentence",
        "list",
        *["sentence"] * 4,
        "code",
        "code",
    ]


def test_abbreviations_do_not_end_a_sentence() -> None:
    sentences = [unit.text for unit in split(MIXED) if unit.kind == "sentence"]

    assert "This keeps it alive, e.g. in winter." in sentences
    assert "Dr. Rye agreed." in sentences


@pytest.mark.parametrize("text", [MIXED, MIXED.replace("\n", "\r\n"), "  Ein Satz.  Zwei! "])
def test_units_are_verbatim_and_in_order(text: str) -> None:
    units = split(text)

    assert units
    assert all(text[unit.start : unit.end] == unit.text for unit in units)
    assert all(left.end <= right.start for left, right in pairwise(units))


def test_a_list_is_quoted_with_the_line_that_announces_it() -> None:
    with_list = [quote for quote in quotes(MIXED) if "wooden spoon" in quote]

    assert with_list
    assert all(quote.startswith("Before you start") for quote in with_list)
    assert all("a jar" in quote and "warm shelf" in quote for quote in with_list)


def test_no_quotation_starts_with_a_reference_or_ends_in_an_announcement() -> None:
    text = (
        "Rye is sticky. This is normal. However, it fades. For example, overnight it does. "
        "Wet your hands. Use a scraper. The next steps are:"
    )

    for quote in quotes(text):
        assert quote.startswith(("Rye is sticky", "Wet your hands", "Use a scraper"))
        assert not quote.endswith(":")


def test_captions_are_not_quoted_as_sentences() -> None:
    text = "A jar on a shelf\n\nI feed it daily. I use rye. I keep it warm. It thrives."

    assert not any("A jar on a shelf" in quote for quote in quotes(text))


def test_a_short_passage_is_quoted_whole() -> None:
    assert quotes("Never knead rye.") == ["Never knead rye."]


def test_a_passage_of_one_caption_is_still_quotable() -> None:
    assert quotes("A jar on a shelf") == ["A jar on a shelf"]


def test_nothing_can_be_quoted_from_nothing() -> None:
    assert quotes(" \n\n ") == []


def test_a_long_paragraph_is_quoted_in_parts() -> None:
    text = " ".join(f"Sentence number {number} stands here alone." for number in range(30))

    assert all(3 <= quote.count(".") <= 5 for quote in quotes(text))


def test_very_long_units_end_a_quotation() -> None:
    text = "\n\n".join(f"{'word ' * 150}end number {number}." for number in range(4))

    assert all(len(quote) <= 1600 for quote in quotes(text))

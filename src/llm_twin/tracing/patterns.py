"""What counts as personal or secret in a text: a pattern each and, where there is one, a check.

A number that only looks like a card or an account is left alone: its check digits decide. Every
pattern is bounded, so that hostile text costs time in proportion to its length.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_IBAN_LENGTHS = {
    country: length
    for length, countries in {
        15: "NO", 16: "BE", 18: "DK FI FK FO NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV", 22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG", 25: "LY PT ST", 26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV", 29: "BR EG PS QA UA",
        30: "JO KW MU", 31: "MT SC", 32: "LC", 33: "RU",
    }.items()
    for country in countries.split()
}  # fmt: skip
_NOT_ALPHANUMERIC = re.compile(r"[^0-9A-Za-z]")
_NOT_DIGITS = re.compile(r"\D+")


@dataclass(frozen=True)
class Kind:
    """Something to take out of a text.

    Attributes:
        name: what stands in its place, in brackets.
        pattern: where it may be; a group named ``it``, if there is one, is the part to take out.
        marks: lower-case; a text that holds none of them, whatever its case, cannot hold this.
        length: how many characters of a match are it, 0 for a false alarm; None: the whole match.

    """

    name: str
    pattern: re.Pattern[str]
    marks: tuple[str, ...] = ()
    length: Callable[[str], int] | None = None


def card_length(found: str) -> int:
    """Return the length of the text if its digits are a payment card's number, else 0.

    Ids and times have check digits by chance as well, but are not written in groups like a card's.
    """
    groups = tuple(map(len, _NOT_DIGITS.split(found)))
    if max(groups) > 4 and groups not in ((len(found),), (4, 6, 5), (4, 6, 4)):
        return 0
    digits = [int(character) for character in found if character.isdecimal()]
    if digits[0] == 2 and len(digits) != 16:
        return 0
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return 0 if (sum(digits[-1::-2]) + sum(doubled)) % 10 else len(found)


def iban_length(found: str) -> int:
    """Return how many characters from the start are an account number whose check holds, else 0."""
    wanted = _IBAN_LENGTHS.get(found[:2].upper(), 0)
    ends = [place for place, character in enumerate(found, 1) if character.isalnum()]
    if not wanted or len(ends) < wanted:
        return 0
    length = ends[wanted - 1]
    if found[length : length + 1].isalnum():  # part of something longer, like an encoded image
        return 0
    compact = _NOT_ALPHANUMERIC.sub("", found[:length])
    number = "".join(str(int(character, 36)) for character in compact[4:] + compact[:4])
    return length if int(number) % 97 == 1 else 0


def phone_length(found: str) -> int:
    """Return the length of the text if it has as many digits as a telephone number, else 0."""
    return len(found) if sum(map(str.isdecimal, found)) >= 9 else 0


_NAMED = (
    r"(?:pass(?:word|wd|phrase)?|pwd|secret|client_secret|api[_-]?key|apikey|access[_-]?key|"
    r"secret[_-]?key|private[_-]?key|access[_-]?token|auth[_-]?token|refresh[_-]?token|token|"
    r"authorization|credentials?)"
)
SECRET_NAME = re.compile(rf"(?:[a-z0-9]{{1,40}}[_-]){{0,4}}{_NAMED}", re.IGNORECASE)
"""A whole name under which nothing but a secret is kept."""

_ISSUED = (
    r"\b(?:sk-[\w-]{16,200}|glpat-[\w-]{16,60}|pypi-[\w-]{30,300}|(?:AKIA|ASIA)[0-9A-Z]{16}"
    r"|AIza[\w-]{35}|xox[abeprs]-[\w-]{10,200}"
    r"|eyJ[\w-]{8,8000}\.[\w-]{4,8000}(?:\.[\w-]{0,8000})?)"
)
_ISSUED_WITH_UNDERSCORE = (
    r"\b(?:(?:sk|rk|pk)_(?:live|test)_\w{10,100}|gh[pousr]_\w{20,100}|github_pat_\w{20,100}"
    r"|npm_\w{30,50}|hf_\w{20,60})"
)

KINDS = (
    Kind(
        "KEY",
        re.compile(
            r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----(?:[^-]|-(?!----)){0,20000}"
            r"(?:-----END [A-Z ]{0,60}-----)?"
        ),
        ("-----begin",),
    ),
    Kind(
        "KEY",
        re.compile(_ISSUED),
        ("sk-", "glpat-", "pypi-", "akia", "asia", "aiza", "xox", "eyj"),
    ),
    Kind("KEY", re.compile(_ISSUED_WITH_UNDERSCORE), ("_",)),
    Kind(
        "KEY",
        re.compile(r"\b(?:bearer|basic)\s{1,4}(?P<it>[\w.~+/=-]{12,8000})", re.IGNORECASE),
        ("bearer", "basic"),
    ),
    Kind("KEY", re.compile(r"://[^\s/:@]{1,200}:(?P<it>[^\s/@]{1,200})@"), ("://",)),
    Kind(
        "KEY",
        re.compile(
            rf"(?<![a-z0-9]){_NAMED}[\"'\\]{{0,3}}\s?[:=]\s?[\"'\\]{{0,3}}"
            rf"(?P<it>[^\s\"'\\,;&<>(){{}}\[\]]{{6,4000}})",
            re.IGNORECASE,
        ),
        ("pass", "pwd", "secret", "key", "token", "authorization", "credential"),
    ),
    Kind(
        "EMAIL",
        re.compile(r"[\w.+%'-]{1,64}(?:@|%40)(?:[\w-]{1,63}\.){1,8}[^\W\d_][\w-]{1,62}"),
        ("@", "%40"),
    ),
    Kind(
        "IBAN",
        re.compile(r"\b[A-Z]{2}\d{2}(?:[ \u00a0-]?[0-9A-Z]){11,40}", re.IGNORECASE),
        length=iban_length,
    ),
    Kind(
        "CARD",
        re.compile(r"(?<![\d.])[2-6](?:[ \u00a0.-]?\d){12,18}(?!\d)"),
        length=card_length,
    ),
    Kind(
        "PHONE",
        re.compile(
            r"(?<![\w+])(?<!\d[./:-])(?!\d\d[ /-]\d\d[ /-]\d{4}(?!\d))"
            r"(?:(?:\+|00)[1-9](?:[ \u00a0()./-]{0,3}\d){7,14}"
            r"|\(0?\d{2,5}\)[ \u00a0/-]{0,2}\d{2,5}(?:[ \u00a0/-]?\d{2,5}){1,3}"
            r"|0[1-9]\d{0,4}[ \u00a0/-]{1,3}\d{2,5}(?:[ \u00a0/-]?\d{2,5}){1,3}"
            r"|[2-9]\d{2}[ .-]\d{3}[ .-]\d{4})(?![\w])"
        ),
        length=phone_length,
    ),
)
DIGITS = re.compile(
    r"\d(?:[^0-9A-Za-z]{0,3}\d){6}|\d\d[ \u00a0-]?[0-9A-Za-z]{4}[ \u00a0-]?[0-9A-Za-z]{4}"
)
"""A text without this holds neither card, account nor telephone number."""

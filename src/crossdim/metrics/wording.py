"""Text as metrics compare it: words without case, punctuation and articles, sentences, and numbers with their units."""

import re
import unicodedata
from dataclasses import dataclass

NUMBER = r"(?<![\w.])[-+]?\d+(?:\.\d+)?"
TOKEN = re.compile(rf"{NUMBER}|[^\W_]+(?:'[^\W_]+)*|[<>]=?|[≤≥%]")
ARTICLES = frozenset({"a", "an", "the"})
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\s*[\r\n]+\s*")
THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
SIGNS = str.maketrans({"\N{MINUS SIGN}": "-", "\N{RIGHT SINGLE QUOTATION MARK}": "'", "\N{EN DASH}": "-"})

UNITS = {
    "volume": {"ml": 1.0, "cc": 1.0, "cm3": 1.0, "millilitres": 1.0, "milliliters": 1.0, "mm3": 1e-3, "l": 1e3},
    "length": {"mm": 1.0, "millimetres": 1.0, "millimeters": 1.0, "cm": 10.0, "centimetres": 10.0, "centimeters": 10.0},
    "share": {"%": 1.0, "percent": 1.0},
    "intensity": {"hu": 1.0},
}
"""What a unit measures, and how many of the first unit of its kind it is."""

KIND_OF_UNIT = {unit: (kind, factor) for kind, units in UNITS.items() for unit, factor in units.items()}
QUANTITY = re.compile(rf"({NUMBER})\s*({'|'.join(sorted(map(re.escape, KIND_OF_UNIT), key=len, reverse=True))})?(?!\w)")

NUMBER_WORDS = (
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)
NUMBER_WORD = re.compile(rf"\b({'|'.join(word for word in NUMBER_WORDS if word != 'one')})\b")
"""Without "one", which is also a pronoun: it counts as a number only where it is the whole text."""


@dataclass(frozen=True)
class Quantity:
    """A number in a text.

    Attributes:
        value: In the first unit of its kind (mL, mm, %, HU), or as it stands.
        kind: What its unit measures; empty without a unit.
    """

    value: float
    kind: str


def plain(text: str) -> str:
    """Return a text in lower case with compatibility characters, signs and quotes made plain.

    Args:
        text: Any.
    """
    return THOUSANDS.sub("", unicodedata.normalize("NFKC", text).translate(SIGNS).casefold())


def words(text: str) -> tuple[str, ...]:
    """Return the words of a text without case, punctuation and articles; an article that stands alone is kept.

    The answer normalisation of SQuAD (Rajpurkar et al. 2016), but decimal points, signs and per cent stay, because
    "1.4 mL" and "14 mL" are different answers.

    Args:
        text: Any.
    """
    found = tuple(match.group() for match in TOKEN.finditer(plain(text)))
    return tuple(word for word in found if word not in ARTICLES) or found


def normalised(text: str) -> str:
    """Return :func:`words` joined by spaces.

    Args:
        text: Any.
    """
    return " ".join(words(text))


def sentences(text: str) -> tuple[str, ...]:
    """Split a text after ``.``, ``!`` and ``?`` that a space follows, and at line breaks.

    Args:
        text: Any.
    """
    return tuple(part.strip() for part in SENTENCE_END.split(text) if words(part))


def quantities(text: str) -> tuple[Quantity, ...]:
    """Return the numbers of a text in their order, each in the first unit of its kind.

    Args:
        text: Any; number words up to twelve count, "one" only where it is the whole text.
    """
    cleaned = plain(text).replace("^3", "3")
    if words(cleaned) == ("one",):
        cleaned = "1"
    cleaned = NUMBER_WORD.sub(lambda match: str(NUMBER_WORDS.index(match.group())), cleaned)
    found = []
    for number, unit in QUANTITY.findall(cleaned):
        kind, factor = KIND_OF_UNIT.get(unit, ("", 1.0))
        found.append(Quantity(float(number) * factor, kind))
    return tuple(found)

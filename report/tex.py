r"""From values to LaTeX: escaped text, numbers with siunitx, labels of what a number rests on.

Whatever the template prints passes through `finalize`: a string is escaped unless it is already
`Tex`, an integer becomes `\num{...}`, and a bare float is refused, since only the template can say
how many digits of it mean something.
"""

from __future__ import annotations

import math
import re
import unicodedata
from typing import Any

from report.fields import ReportError
from report.numbers import note


class UntypesettableText(ReportError):
    """A string holds a character that the report's fonts cannot print."""


class Tex(str):
    """LaTeX source that is safe to print as it is."""


_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    '"': r"\textquotedbl{}",
    "'": "'",
    "`": r"\`{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "-": r"-{}",
    "\N{NO-BREAK SPACE}": "~",
    "\N{HYPHEN}": "-{}",
    "\N{NON-BREAKING HYPHEN}": r"\mbox{-}",
    "\N{EN DASH}": r"\textendash{}",
    "\N{EM DASH}": r"\textemdash{}",
    "\N{LEFT SINGLE QUOTATION MARK}": r"\textquoteleft{}",
    "\N{RIGHT SINGLE QUOTATION MARK}": r"\textquoteright{}",
    "\N{LEFT DOUBLE QUOTATION MARK}": r"\textquotedblleft{}",
    "\N{RIGHT DOUBLE QUOTATION MARK}": r"\textquotedblright{}",
    "\N{HORIZONTAL ELLIPSIS}": r"\textellipsis{}",
    "\N{BULLET}": r"\textbullet{}",
    "\N{MIDDLE DOT}": r"\textperiodcentered{}",
    "\N{TRADE MARK SIGN}": r"\texttrademark{}",
    "\N{MULTIPLICATION SIGN}": r"\texttimes{}",
    "\N{PLUS-MINUS SIGN}": r"\textpm{}",
    "\N{DEGREE SIGN}": r"\textdegree{}",
    "\N{MICRO SIGN}": r"\textmu{}",
}
"""How each character that LaTeX would misread, or that needs a command, is written."""

_LETTERS = frozenset(
    "ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖØÙÚÛÜÝÞßàáâãäåæçèéêëìíîïðñòóôõöøùúûüýþÿĀāĂăĄąĆćĈĉĊċČčĎďĐđĒēĔĕĖėĘęĚěĜĝĞğĠġĢģ"
    "ĤĥĨĩĪīĬĭĮįİıĴĶķĹĺĻļĽľŁłŃńŅņŇňŌōŎŏŐőŒœŔŕŖŗŘřŚśŜŝŞşŠšŢţŤťŨũŪūŬŭŮůŰűŲųŴŵŶŷŸŹźŻżŽžȘșȚț§¶©®¡¿«»"
)
"""Non-ASCII characters that the text font prints from its own outlines, as seen in a PDF."""

_LONG_WORD = re.compile(r"\S{25,}")
_BREAK = Tex(r"\allowbreak{}")


def escape(text: str, *, breakable: bool = True) -> Tex:
    """Return `text` as LaTeX that prints exactly it.

    Words of 25 characters and more may break anywhere, so that no name runs over the margin;
    `breakable=False` leaves them whole (for PDF metadata). White space, line ends among it, becomes
    single spaces. Raises UntypesettableText, naming the field and the character, for control
    characters and for scripts that the fonts lack.
    """
    words = " ".join(unicodedata.normalize("NFC", text).split())
    _require_typesettable(words, getattr(text, "path", None))
    if breakable:
        return Tex(_join(words, _LONG_WORD.finditer(words)))
    return Tex("".join(map(_glyph, words)))


def untypesettable(text: str) -> list[str]:
    """Return the distinct characters of `text` that the report cannot print, in their order."""
    normal = " ".join(unicodedata.normalize("NFC", text).split())
    return list(dict.fromkeys(character for character in normal if not _typesettable(character)))


def _typesettable(character: str) -> bool:
    return " " <= character <= "~" or character in _SPECIAL or character in _LETTERS


def _require_typesettable(text: str, field: str | None) -> None:
    for character in untypesettable(text):
        name = unicodedata.name(character, "a control or unassigned character")
        shown = repr(character) if character.isprintable() else ascii(character)
        raise UntypesettableText(
            f"{field or 'a text'} holds {shown} (U+{ord(character):04X}, {name}), which the "
            "report's fonts cannot print; write it in Latin letters, for example transliterated"
        )


def _glyph(character: str) -> str:
    return _SPECIAL.get(character, character)


def _join(text: str, long_words: Any) -> str:
    """Escape `text`, with a break opportunity between the characters of each of its long words."""
    parts, done = [], 0
    for match in long_words:
        parts.append("".join(map(_glyph, text[done : match.start()])))
        parts.append(_BREAK.join(map(_glyph, match.group())))
        done = match.end()
    parts.append("".join(map(_glyph, text[done:])))
    return "".join(parts)


def code(text: str) -> Tex:
    """Return `text` in typewriter type, breakable after each of the characters _ / . = ]."""
    escape(text)  # checks the whole text, under its field's name
    pieces = [escape(piece) for piece in re.split(r"(?<=[_/.=\]])", text)]
    return Tex(rf"\texttt{{{_BREAK.join(pieces)}}}")


def num(value: int | float, digits: int = 3) -> Tex:
    r"""Return `\num{...}`: integers whole, floats rounded to `digits` significant digits."""
    return Tex(rf"\num{{{plain(value, digits)}}}")


def fixed(value: int | float, decimals: int = 2) -> Tex:
    r"""Return `\num{...}` with a fixed number of decimals, for columns of like magnitude."""
    _require_number(value)
    printed = f"{value:.{decimals}f}"
    return Tex(rf"\num{{{note(value, printed)}{printed}}}")


def signed(value: int | float, decimals: int = 1) -> Tex:
    r"""Return `\num{...}` with its sign always shown, for changes."""
    return Tex(rf"\num[print-implicit-plus]{{{plain_signed(value, decimals)}}}")


def plain(value: int | float, digits: int = 3) -> Tex:
    """Return a number in digits alone, as the argument of a command."""
    printed = rounded(value, digits)
    return Tex(note(value, printed) + printed)


def plain_signed(value: int | float, decimals: int = 1) -> Tex:
    """Return a change in digits alone, as the argument of a command."""
    _require_number(value)
    printed = f"{value:+.{decimals}f}"
    return Tex(note(value, printed) + printed)


def qty(value: int | float, unit: str, digits: int = 3) -> Tex:
    r"""Return `\qty{value}{unit}`; `unit` is siunitx's, for example `\milli\second`."""
    return Tex(rf"\qty{{{plain(value, digits)}}}{{{unit}}}")


def size(value: int, digits: int = 3) -> Tex:
    """Return a byte count in the binary unit that keeps it short (B, KiB, MiB, GiB)."""
    _require_number(value)
    units = (r"\byte", r"\kibi\byte", r"\mebi\byte", r"\gibi\byte")
    power = min(int(math.log2(value) // 10), 3) if value >= 1 else 0
    return qty(value / 1024**power if power else value, units[power], digits)


def rounded(value: int | float, digits: int) -> str:
    """Return a number in digits: integers whole, floats with `digits` significant ones."""
    _require_number(value)
    if isinstance(value, int) or value == 0:
        return str(int(value))
    magnitude = math.floor(math.log10(abs(value)))
    if -4 <= magnitude < digits + 3:
        return f"{value:.{max(digits - 1 - magnitude, 0)}f}"
    return f"{value:.{digits - 1}e}"


def _require_number(value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"expected a number, received {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, received {value!r}")


_SYMBOLS = {
    "Score": "s",
    "Accuracy": "a",
    "Base_Latency": "L_0",
    "Your_Latency": "L",
    "Base_Throughput": "T_0",
    "Your_Throughput": "T",
    "NKI_FLOPS_Ratio": "r",
}


def formula(text: str) -> Tex:
    """Return the record's scoring formula in mathematics.

    "A x (B/C) x (1 + D)" becomes a product of symbols and fractions. Raises ValueError for a
    quantity that has no symbol.
    """
    tokens = re.findall(
        r"[A-Za-z]\w*|\d+(?:\.\d+)?|\S", text.replace("\N{MULTIPLICATION SIGN}", " x ")
    )
    symbols = [r"\cdot" if token == "x" else _symbol(token) for token in tokens]
    quotient = re.compile(r"\( (\S+) / (\S+) \)")
    return Tex(quotient.sub(r"\\frac{\1}{\2}", " ".join(symbols)))


def _symbol(token: str) -> str:
    if token in _SYMBOLS:
        return _SYMBOLS[token]
    if re.fullmatch(r"\d+(\.\d+)?|[=()+/-]", token):
        return token
    raise ValueError(f"scoring_formula: no symbol for {token!r}; known: {', '.join(_SYMBOLS)}")


_BASES = {
    "measured": "measured",
    "modelled": "modelled",
    "published": "published, not ours",
    "counted": "counted",
}


def basis(label: str, detail: str = "") -> Tex:
    r"""Return the tag that says what a table or figure rests on, as `[measured: host CPU]`."""
    if label not in _BASES:
        raise ValueError(f"unknown basis {label!r}; known: {', '.join(_BASES)}")
    words = f"{_BASES[label]}: {escape(detail)}" if detail else _BASES[label]
    return Tex(rf"\basis{{{words}}}")


def finalize(value: Any) -> str:
    """Return what the template prints for `value` (see the module's docstring)."""
    if isinstance(value, Tex):
        return value
    if isinstance(value, str):
        return escape(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return num(value)
    raise TypeError(
        f"the template prints {value!r} as it is; give a float its digits with num, fixed or qty, "
        "and test null and booleans"
    )

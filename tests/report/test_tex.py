from __future__ import annotations

import math

import pytest

from report import tex
from report.fields import Fields
from report.numbers import without_notes
from report.tex import Tex, UntypesettableText


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a & b", r"a \& b"),
        ("100% #1 $5 {x_y}", r"100\% \#1 \$5 \{x\_y\}"),
        (r"\write18{rm}", r"\textbackslash{}write18\{rm\}"),
        ("a^b~c", r"a\textasciicircum{}b\textasciitilde{}c"),
        ('"q" `r`', r"\textquotedbl{}q\textquotedbl{} \`{}r\`{}"),
        ("<>|", r"\textless{}\textgreater{}\textbar{}"),
        ("a--b", "a-{}-{}b"),
        ("line\nbreak\tand   spaces", "line break and spaces"),
        ("Zoe\u0308", "Zoë"),
        ("", ""),
    ],
)
def test_escaped_text_prints_as_written(text: str, expected: str) -> None:
    assert tex.escape(text) == expected


def test_long_words_may_break_anywhere_and_short_ones_nowhere() -> None:
    assert tex.escape("x" * 300).count(r"\allowbreak{}") == 299
    assert r"\allowbreak" not in tex.escape("x" * 24)
    assert r"\allowbreak" not in tex.escape("x" * 300, breakable=False)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("队", "CJK UNIFIED IDEOGRAPH-961F"),
        ("Кернел", "CYRILLIC CAPITAL LETTER KA"),
        ("\N{ROCKET}", "ROCKET"),
        ("a\x07b", "control or unassigned"),
        ("a\x1b[31m", "control or unassigned"),
        ("\u202eright to left", "RIGHT-TO-LEFT OVERRIDE"),
    ],
)
def test_what_the_fonts_lack_is_refused_by_field_and_character(text: str, name: str) -> None:
    field = Fields({"team": {"name": text}})["team"]["name"]
    with pytest.raises(UntypesettableText, match=rf"team\.name holds .*{name}"):
        tex.escape(field)
    with pytest.raises(UntypesettableText, match=r"team\.name holds"):
        tex.code(field)


def test_untypesettable_lists_each_character_once() -> None:
    assert tex.untypesettable("Zoë 队队 Ж") == ["队", "Ж"]
    assert tex.untypesettable("Zoë & O\N{RIGHT SINGLE QUOTATION MARK}Neil") == []


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [
        (160, 3, "160"),
        (16384, 2, "16384"),
        (0.0, 3, "0"),
        (0.030000000000000002, 2, "0.030"),
        (1.1920929e-07, 3, "1.19e-07"),
        (12498.0, 3, "12498"),
        (-51.8612, 4, "-51.86"),
        (9.999e7, 3, "1.00e+08"),
    ],
)
def test_rounded_keeps_significant_digits(value: float, digits: int, expected: str) -> None:
    assert tex.rounded(value, digits) == expected


@pytest.mark.parametrize("value", [math.nan, math.inf, None, True, "3"])
def test_what_is_no_finite_number_is_refused(value: object) -> None:
    with pytest.raises((TypeError, ValueError), match="expected a"):
        tex.num(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, r"\qty{0}{\byte}"),
        (1023, r"\qty{1023}{\byte}"),
        (1024, r"\qty{1.00}{\kibi\byte}"),
        (5 * 2**20, r"\qty{5.00}{\mebi\byte}"),
        (2**40, r"\qty{1024}{\gibi\byte}"),
    ],
)
def test_sizes_use_the_unit_that_keeps_them_short(value: int, expected: str) -> None:
    assert without_notes(tex.size(value)) == expected


def test_the_formula_becomes_fractions() -> None:
    text = (
        "Score = Accuracy \N{MULTIPLICATION SIGN} (Base_Latency/Your_Latency)"
        " x (Your_Throughput/Base_Throughput) x (1 + NKI_FLOPS_Ratio)"
    )
    expected = r"s = a \cdot \frac{L_0}{L} \cdot \frac{T}{T_0} \cdot ( 1 + r )"
    assert tex.formula(text) == expected


def test_a_formula_with_an_unknown_quantity_is_refused() -> None:
    with pytest.raises(ValueError, match="no symbol for 'Luck'"):
        tex.formula("Score = Luck")


def test_a_basis_is_one_of_the_known_ones() -> None:
    assert tex.basis("measured", "host_cpu") == r"\basis{measured: host\_cpu}"
    with pytest.raises(ValueError, match="unknown basis 'guessed'"):
        tex.basis("guessed")


def test_finalize_escapes_text_and_refuses_bare_floats_and_nothing() -> None:
    assert tex.finalize("a_b") == r"a\_b"
    assert tex.finalize(Tex("a_b")) == "a_b"
    assert without_notes(tex.finalize(12)) == r"\num{12}"
    for value in (1.5, None, True, [1]):
        with pytest.raises(TypeError, match="prints"):
            tex.finalize(value)


def test_code_breaks_after_separators_only() -> None:
    assert tex.code("a_b.c") == r"\texttt{a\_\allowbreak{}b.\allowbreak{}c}"

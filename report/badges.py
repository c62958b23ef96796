"""README's badges: small SVG files that say what a run came to; colours follow the values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

GOOD, DOUBTFUL, BAD = "#2e7d32", "#b26a00", "#b71c1c"
PLAIN, MODELLED, ABSENT = "#0b4f7d", "#6a4c93", "#5b5b5b"
_LABEL = "#333333"
_CHARACTER_PX, _PADDING_PX, _HEIGHT_PX = 6.4, 6, 20
_SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" role="img" aria-label="{text}">
<title>{text}</title>
<clipPath id="round"><rect width="{width}" height="{height}" rx="3"/></clipPath>
<g clip-path="url(#round)">
<rect width="{split}" height="{height}" fill="{left}"/>
<rect x="{split}" width="{rest}" height="{height}" fill="{right}"/>
</g>
<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">
<text x="{padding}" y="14" textLength="{label_px}" lengthAdjust="spacingAndGlyphs">{label}</text>
<text x="{value_x}" y="14" textLength="{value_px}" lengthAdjust="spacingAndGlyphs">{value}</text>
</g>
</svg>
"""  # noqa: E501


@dataclass(frozen=True)
class Badge:
    """What a badge says on its two sides, and the colour of the second."""

    label: str
    value: str
    colour: str

    @property
    def text(self) -> str:
        """The badge in words, for those who do not see it."""
        return f"{self.label}: {self.value}"


def prompts(found: dict[str, Any]) -> Badge:
    """Return how many prompts stay within the accuracy rule."""
    passed, total = found["prompts_passed"], found["prompts_total"]
    return Badge("prompts passed", f"{passed} of {total}", GOOD if passed == total else BAD)


def tokens(found: dict[str, Any]) -> Badge:
    """Return how many tokens equal the baseline's; the rule allows some to differ."""
    equal, checked = found["tokens_equal"], found["tokens_checked"]
    return Badge("tokens equal", f"{equal} of {checked}", GOOD if equal == checked else DOUBTFUL)


def kernels(found: dict[str, Any]) -> Badge:
    """Return how many kernels there are; one that misses its oracle ends the build."""
    return Badge("kernels validated", str(found["kernels"]), PLAIN)


def ran_on(found: dict[str, Any]) -> Badge:
    """Return what the kernels ran on."""
    if found["backend"] == "neuron":
        return Badge("ran on", found["hardware"], GOOD)
    return Badge("ran on", f"{found['backend']}, no device", ABSENT)


def score(found: dict[str, Any]) -> Badge:
    """Return the measured score, against the baseline's on the same host."""
    if "nki_total_score" not in found:
        return Badge("measured score", "none without a device", ABSENT)
    change = found["improvement_percent"]
    value = f"{found['nki_total_score']:.2f} ({change:+.1f} %)"
    return Badge("measured score", value, GOOD if change > 0 else BAD)


def decode_step(found: dict[str, Any]) -> Badge:
    """Return the modelled decode step of the fused path on the platform of the run."""
    platform = found["platform_target"]
    label = f"modelled decode step, {platform}"
    if "modelled" not in found:
        return Badge(label, "none", ABSENT)
    step = found["modelled"]["platforms"][platform]["fused_us"]
    low, nominal, high = (f"{step[end] / 1e3:.1f}" for end in ("low", "nominal", "high"))
    return Badge(label, f"{nominal} ms ({low} to {high})", MODELLED)


BADGES: dict[str, Callable[[dict[str, Any]], Badge]] = {
    "prompts": prompts,
    "tokens": tokens,
    "kernels": kernels,
    "ran_on": ran_on,
    "score": score,
    "decode_step": decode_step,
}
"""Every badge by name; the files are called after it."""


def svg(badge: Badge) -> str:
    """Return a badge as an SVG image of two coloured fields; widths do not depend on the font."""
    label_px, value_px = (round(_CHARACTER_PX * len(t)) for t in (badge.label, badge.value))
    split, rest = label_px + 2 * _PADDING_PX, value_px + 2 * _PADDING_PX
    return _SVG.format(
        width=split + rest,
        height=_HEIGHT_PX,
        split=split,
        rest=rest,
        padding=_PADDING_PX,
        value_x=split + _PADDING_PX,
        label_px=label_px,
        value_px=value_px,
        left=_LABEL,
        right=badge.colour,
        text=escape(badge.text),
        label=escape(badge.label),
        value=escape(badge.value),
    )

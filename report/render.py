"""From a results record to LaTeX source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from evaluation.files import (
    read_json,
    sha256_file,
    sha256_text,
    to_json,
    write_atomically,
    write_json,
)
from evaluation.printed import Printed
from report import tex
from report.captions import Caption, captions
from report.facts import facts, top_k_entry, total_useful_macs
from report.fields import Fields, MissingValue
from report.numbers import separate, without_notes
from report.trace import count, real, traced

TEMPLATE = "technical_report.tex.j2"
_MANY_ULPS = 10_000
"""From here on an error in units in the last place is given in powers of ten."""
REPORT_DIR = Path(__file__).resolve().parent


def render(
    record: dict[str, Any], figures: Mapping[str, str], template_dir: Path = REPORT_DIR
) -> tuple[str, list[Printed]]:
    """Return the LaTeX source of the report on `record`, and every number that it prints.

    `figures` maps each figure's name to its path as \\includegraphics finds it. The bibliography is
    expected beside the source as references.bib. Raises MissingValue (naming the key) for a value
    that the record lacks, and UntypesettableText (naming the field and the character) for text that
    cannot be printed.
    """
    fields = Fields(record)
    template = _environment(Path(template_dir)).get_template(TEMPLATE)
    try:
        source = template.render(
            r=fields,
            f=facts(fields),
            figures=Fields(dict(figures), "figures"),
            captions=captions("figures", platform=fields["platform_target"]),
            record_sha256=sha256_text(to_json(record)),
        )
    except jinja2.UndefinedError as error:
        raise MissingValue(f"{TEMPLATE}: {error.message}") from error
    return separate(source)


def render_file(record_path: Path, figures_dir: Path, tex_path: Path, numbers_path: Path) -> None:
    """Write the report on the record at `record_path`, and the list of the numbers it prints.

    The source names the figures in `figures_dir` by their paths relative to itself.
    """
    folder = Path(figures_dir).resolve().relative_to(Path(tex_path).resolve().parent)
    figures = {name: (folder / f"{name}.pdf").as_posix() for name in captions("figures")}
    source, numbers = render(read_json(record_path), figures)
    listed = [asdict(number) for number in numbers]
    write_json(numbers_path, {"record_sha256": sha256_file(record_path), "numbers": listed})
    write_atomically(tex_path, source)


class _Environment(jinja2.Environment):
    """Jinja for whom `record.items` is the record's value, not the dictionary's method."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return the member `attribute` of a JSON object, and otherwise what Jinja returns."""
        return (
            obj[attribute]
            if isinstance(obj, Fields) and attribute in obj
            else super().getattr(obj, attribute)
        )


@cache
def _environment(template_dir: Path) -> jinja2.Environment:
    """Return an environment whose delimiters LaTeX never needs and whose output is escaped."""
    environment = _Environment(
        loader=jinja2.FileSystemLoader(template_dir),
        block_start_string="((*",
        block_end_string="*))",
        variable_start_string="(((",
        variable_end_string=")))",
        comment_start_string="((#",
        comment_end_string="#))",
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        undefined=jinja2.StrictUndefined,
        finalize=tex.finalize,
    )
    environment.filters |= _filters()
    environment.globals |= {
        "top_k_entry": top_k_entry,
        "prompt_name": _prompt_name,
        "count": _count,
        "total_useful_macs": total_useful_macs,
        "million": 10**6,
        "kibi": 2**10,
    }
    return environment


def _filters() -> dict[str, Callable[..., Any]]:
    """Return what the template calls values by: how they are written, and how many there are."""
    return {
        "num": tex.num,
        "fixed": tex.fixed,
        "signed": tex.signed,
        "qty": tex.qty,
        "size": tex.size,
        "code": tex.code,
        "formula": tex.formula,
        "basis": tex.basis,
        "metadata": lambda text: tex.escape(text, breakable=False),
        "digest": _digest,
        "shape": _shape,
        "words": _words,
        "top_k": _top_k,
        "short_dtype": lambda dtype: {"float32": "FP32", "bfloat16": "BF16"}.get(dtype, dtype),
        "range": _range,
        "interval": _interval,
        "ulp": lambda ulp: tex.num(ulp if ulp < _MANY_ULPS else real(ulp), 2),
        "ms_range": _ms_range,
        "caption": _caption,
        "length": count,
        "how_many": lambda items: tex.num(count(items)) if items else "none",
        "cap": lambda text: text[:1].upper() + text[1:],
        "path": tex.Tex,
        "plain": tex.plain,
        "plain_int": lambda value: tex.Tex(int(value)),
        "plain_signed": tex.plain_signed,
    }


def _digest(sha256: str, length: int = 12) -> tex.Tex:
    """Return the first characters of a hash or commit, in the typewriter font."""
    return tex.Tex(rf"\texttt{{{tex.escape(sha256[:length])}}}")


def _shape(shape: list[int]) -> tex.Tex:
    r"""Return a tensor's shape as mathematics, for example $640 \times 2048$."""
    return tex.Tex("$" + r" \times ".join(map(tex.plain, shape)) + "$")


def _words(items: list[Any], separator: str = ", ") -> tex.Tex:
    """Return a list as text: "a", "a and b", "a, b and c"; another separator goes throughout."""
    parts = [tex.finalize(item) for item in items]
    if len(parts) < 2 or separator != ", ":
        return tex.Tex(separator.join(parts))
    return tex.Tex(", ".join(parts[:-1]) + " and " + parts[-1])


def _range(values: list[float], digits: int = 3) -> tex.Tex:
    """Return "1.2 to 8.5" of sorted values, one number where both ends print alike."""
    low, high = (tex.num(value, digits) for value in (values[0], values[-1]))
    return low if without_notes(low) == without_notes(high) else tex.Tex(f"{low} to {high}")


def _interval(ends: list[float], digits: int = 2) -> tex.Tex:
    """Return "1.20--8.53" of the two ends of an interval."""
    return tex.Tex("--".join(tex.fixed(end, digits) for end in ends))


def _ms_range(range_us: Fields, digits: int = 1) -> tex.Tex:
    """Return low and high of a modelled range in us, or of one in ms in seconds, as "3.8--10.1"."""
    return _interval([range_us["low"] / 1000, range_us["high"] / 1000], digits)


def _count(number: int, noun: str) -> tex.Tex:
    """Return "1 prompt" or "5 prompts", kept on one line."""
    return tex.Tex(f"{tex.num(number)}~{tex.escape(noun)}{'' if number == 1 else 's'}")


def _caption(caption: Caption) -> tex.Tex:
    """Return a caption with the tag of its basis."""
    return tex.Tex(f"{tex.escape(caption.caption)} {tex.basis(caption.basis)}")


def _top_k(key: str) -> tex.Tex:
    """Return the name of a set of most likely tokens, as the tolerance map's keys give it."""
    if key == "all":
        return tex.Tex("all tokens")
    return tex.Tex(f"top {tex.num(traced(int(key), getattr(key, 'path', '')))}")


def _prompt_name(prompts: list[Fields], prompt_id: int) -> str:
    """Return the name of a prompt, or its number when the run did not include it."""
    names: list[str] = [prompt["name"] for prompt in prompts if prompt["prompt_id"] == prompt_id]
    return names[0] if names else f"prompt {prompt_id}"

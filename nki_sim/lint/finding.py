"""Findings, and the report that collects them."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from dataclasses import dataclass, field

from .rules import ERROR, RULES
from .sources import Module
from .versions import VERSIONS


@dataclass(frozen=True, slots=True)
class Finding:
    """A place in a kernel's source that a release refuses, or reads differently.

    Attributes:
        file, line, column: where; lines and columns count from 1.
        rule: the rule's id, see `rules.RULES`.
        what: what was found.
        versions: the releases concerned, of those asked for.
        remedy: how to change it.
        severity: ``error`` or ``warning``.
    """

    file: str
    line: int
    column: int
    rule: str
    what: str
    versions: tuple[str, ...]
    remedy: str
    severity: str

    @property
    def is_error(self) -> bool:
        """Whether the kernel is refused, rather than doubtful."""
        return self.severity == ERROR

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}"
        span = ", ".join(self.versions)
        return f"{where}: {self.severity} [{self.rule}] {self.what}; {self.remedy} (SDK {span})"


@dataclass(slots=True)
class Report:
    """Collects findings for the releases asked for.

    Attributes:
        versions: those releases.
        findings: each once, in order of discovery.
    """

    versions: tuple[str, ...] = VERSIONS
    findings: dict[Finding, None] = field(default_factory=dict)

    def add(
        self,
        module: Module,
        node: ast.AST,
        rule: str,
        received: str = "",
        versions: Iterable[str] | None = None,
        remedy: str = "",
    ) -> None:
        """Note a violation, unless it concerns none of the releases asked for.

        Args:
            module, node: where.
            rule: its id.
            received: what was found, appended to the rule's text.
            versions: the releases concerned, where they are fewer than the rule's.
            remedy: instead of the rule's own.
        """
        declared = RULES[rule]
        concerned = VERSIONS if versions is None else tuple(versions)
        found = tuple(v for v in self.versions if v in concerned and v in declared.versions)
        if not found:
            return
        line, column = getattr(node, "lineno", 1), getattr(node, "col_offset", 0) + 1
        what = f"{declared.text}: {received}" if received else declared.text
        finding = Finding(
            str(module.path), line, column, rule, what, found, remedy or declared.remedy,
            declared.severity,
        )  # fmt: skip
        self.findings.setdefault(finding)

    def straddles(self, version: str) -> bool:
        """Whether releases before and from `version` on are both asked for."""
        numbers = [VERSIONS.index(v) for v in self.versions]
        return min(numbers) < VERSIONS.index(version) <= max(numbers)

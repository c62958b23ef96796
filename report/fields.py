"""The results record as the report reads it: what is missing is an error naming its full key."""

from __future__ import annotations

from typing import Any

from report.trace import traced


class ReportError(RuntimeError):
    """The report cannot be written from this record; the message says which value is at fault."""


class MissingValue(ReportError):
    """The record lacks a value that the report needs."""


class Text(str):
    """A string that remembers where in the record it stands, such as "team.members[2]"."""

    path: str

    def __new__(cls, value: str, path: str) -> Text:
        """Return `value` with the key it was found under."""
        text = super().__new__(cls, value)
        text.path = path
        return text


class Fields(dict[str, Any]):
    """A JSON object whose missing keys raise `MissingValue` with their path from the root."""

    path: str

    def __init__(self, values: dict[str, Any], path: str = "") -> None:
        """Wrap `values`, and every object, list and string below it."""
        self.path = path
        super().__init__({key: wrap(value, self.key(key)) for key, value in values.items()})

    def key(self, name: str) -> str:
        """Return the full key of the member `name`, for example "summary.accuracy"."""
        return f"{self.path}.{name}" if self.path else name

    def get(self, name: str, default: Any = None) -> Any:
        """Return a member or `default`, which, if a number, carries the key of what lacks it."""
        if name in self:
            return self[name]
        known = isinstance(default, (int, float)) and not isinstance(default, bool)
        return traced(default, self.path) if known else default

    def __missing__(self, name: str) -> Any:
        """Refuse a missing key."""
        raise MissingValue(
            f"the results record has no value {self.key(name)!r}, which the report needs; "
            f"{self.path or 'its root'} holds: {', '.join(self) or 'nothing'}"
        )


class Items(list[Any]):
    """A JSON list that remembers where in the record it stands."""

    path: str

    def __init__(self, values: list[Any], path: str) -> None:
        """Wrap every value of the list."""
        self.path = path
        super().__init__(wrap(item, f"{path}[{index}]") for index, item in enumerate(values))


def wrap(value: Any, path: str = "") -> Any:
    """Return a JSON value as `Fields`, `Items`, `Text` or a number that knows its key."""
    if isinstance(value, dict):
        return Fields(value, path)
    if isinstance(value, list):
        return Items(value, path)
    if isinstance(value, str):
        return Text(value, path)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return traced(value, path)
    return value

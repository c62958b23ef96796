from __future__ import annotations

import pytest

from report.fields import Fields, MissingValue, Text


def test_members_are_reached_through_objects_and_lists() -> None:
    fields = Fields({"a": {"b": [{"c": "text"}]}, "n": 3})
    assert fields["a"]["b"][0]["c"] == "text"
    assert fields["n"] == 3


def test_strings_know_their_key() -> None:
    found = Fields({"team": {"members": ["Ada", "Grace"]}})["team"]["members"][1]
    assert isinstance(found, Text)
    assert found.path == "team.members[1]"


@pytest.mark.parametrize(
    ("path", "missing"),
    [((), "gone"), (("a",), "a.gone"), (("list", 0), "list[0].gone")],
)
def test_a_missing_member_is_named_with_its_path(path: tuple[str | int, ...], missing: str) -> None:
    here = Fields({"a": {"b": 1}, "list": [{"b": 1}]})
    for step in path:
        here = here[step]
    with pytest.raises(MissingValue, match=rf"'{missing}'".replace("[", r"\[")):
        here["gone"]

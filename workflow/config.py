"""The configuration: its schema, its defaults, and what a schema cannot say.

`workflow/schemas/config.schema.yaml` declares every key with its meaning, unit and default. A file
that the user edits, a second --configfile and --config are merged before this module sees them.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError, validators

SCHEMA_FILE = Path(__file__).parent / "schemas" / "config.schema.yaml"


class ConfigError(ValueError):
    """A configuration that cannot be used; the text lists every problem with its key."""


@cache
def schema() -> dict[str, Any]:
    """Return the JSON Schema of the configuration."""
    return yaml.safe_load(SCHEMA_FILE.read_text(encoding="utf-8"))


def complete(config: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Return `config` with the schema's defaults filled in, once everything in it is usable.

    `root` is the folder that relative paths start from. Raises ConfigError.
    """
    config = _with_text_keys(config)
    problems = [_problem(error) for error in _validator().iter_errors(config)]
    full = _with_defaults(config, schema())
    problems = problems or list(_contradictions(full, root))
    if problems:
        lines = "".join(f"\n  {problem}" for problem in sorted(problems))
        raise ConfigError(
            "the configuration (config/config.yaml, then --configfile, then --config) is not "
            f"usable:{lines}\nconfig/README.md explains every key."
        )
    return full


def record_of(config: Mapping[str, Any]) -> str:
    """Return, as one line of JSON, what of the configuration belongs to a result.

    The interpreter of the Neuron steps is a path of this machine and changes no result by itself;
    the ranks are part of every artefact that the results name.
    """
    return json.dumps({k: v for k, v in config.items() if k != "neuron"}, sort_keys=True)


def _validator() -> Draft202012Validator:
    """Return a validator for which 1.0 is no whole number, and infinity and NaN are no numbers."""
    types = Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: isinstance(value, int) and not isinstance(value, bool),
            "number": lambda _, value: (
                isinstance(value, (int, float))
                and not isinstance(value, bool)
                and math.isfinite(value)
            ),
        }
    )
    return validators.extend(Draft202012Validator, type_checker=types)(schema())


def _with_text_keys(value: Any) -> Any:
    """Return `value` with all keys as text: YAML reads an unquoted 50 as a number."""
    if isinstance(value, Mapping):
        return {str(key): _with_text_keys(inner) for key, inner in value.items()}
    return value


def _with_defaults(value: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """Return `value` with absent keys from the schema's `default`s, in the schema's order."""
    full: dict[str, Any] = {}
    for key, declared in part["properties"].items():
        given = value.get(key, declared.get("default", {})) if isinstance(value, Mapping) else {}
        nested = "properties" in declared and isinstance(given, Mapping)
        full[key] = _with_defaults(given, declared) if nested else given
    return full


def _problem(error: ValidationError) -> str:
    """Say in one line what is wrong at which key, and what would be right."""
    key = ".".join(map(str, error.absolute_path)) or "the configuration"
    received = json.dumps(error.instance, default=str)
    rule: Any = error.validator_value
    if error.validator == "additionalProperties":
        return "; ".join(_unknown_keys(error))
    if error.validator == "type":
        types = [rule] if isinstance(rule, str) else rule
        hint = _type_hint(types, error.instance)
        return f"{key}: expected {_listing(types)}, received {received}{hint}"
    if error.validator == "enum":
        return f"{key}: expected one of {', '.join(rule)}, received {received}"
    if error.validator == "pattern":
        return f"{key}: {_declared(error)['x-pattern']}, received {received}"
    return f"{key}: {error.message}"


def _declared(error: ValidationError) -> Mapping[str, Any]:
    """Return the part of the schema that was not satisfied."""
    assert isinstance(error.schema, Mapping)
    return error.schema


def _unknown_keys(error: ValidationError) -> Iterator[str]:
    prefix = "".join(f"{part}." for part in error.absolute_path)
    declared, given = _declared(error), error.instance
    assert isinstance(given, Mapping)
    known = list(declared.get("properties", {}))
    patterns = declared.get("patternProperties", {})
    for name in given:
        if name in known or any(re.search(pattern, name) for pattern in patterns):
            continue
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {prefix}{near[0]}?" if near else f"known: {', '.join(known)}"
        yield f"{prefix}{name}: unknown key; {declared.get('x-keys', hint)}"


def _type_hint(types: list[str], received: Any) -> str:
    if isinstance(received, str) and {"number", "integer"} & set(types):
        return " (a number without quotes; 1.0e-5, not 1e-5; inside --config key=... all is text)"
    return " (put it in quotes)" if "string" in types and isinstance(received, (int, float)) else ""


def _listing(types: list[str]) -> str:
    words = {"integer": "a whole number", "string": "text", "null": "nothing (null)"}
    words |= {"number": "a finite number", "object": "a group of keys", "array": "a list"}
    return " or ".join(words[name] for name in types)


def _contradictions(config: Mapping[str, Any], root: Path) -> Iterator[str]:
    """Yield the problems of a configuration that satisfies the schema."""
    model, evaluation = config["model"], config["evaluation"]
    if model["repo_id"] is not None and model["revision"] is None:
        yield (
            "model.revision: missing. A download is pinned to a commit: give the 40 digits of one "
            f"that {model['repo_id']} has"
        )
    if model["repo_id"] is None and model["revision"] is not None:
        yield "model.revision: given without model.repo_id; the built-in model has no revisions"
    if not (root / evaluation["prompts"]).is_file():
        yield f"evaluation.prompts: there is no file {evaluation['prompts']}"
    new_tokens = evaluation["max_new_tokens"]
    if new_tokens is not None and new_tokens >= evaluation["sequence_length"]:
        yield (
            f"evaluation.max_new_tokens: {new_tokens} leave no room for a prompt "
            f"in a sequence_length of {evaluation['sequence_length']}"
        )
    python = config["neuron"]["python"]
    if python is not None and not Path(python).is_file():
        yield f"neuron.python: there is no interpreter {python}"

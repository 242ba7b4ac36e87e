"""Reading configuration files: YAML without surprises, schemas, and errors in one line."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedgloss.errors import InputError, did_you_mean
from fedgloss.records import TEXT, is_finite

SCHEMAS = Path(__file__).parent / "schemas"
CONSTANTS = Path(__file__).parent / "constants"
"""What the package brings: the constants of the paper, its numbers, and what jobs need."""
PROJECT = Path(__file__).resolve().parents[3]
"""The checkout, where this is one; of an installed package, a folder with no studies."""

ENTRIES = 100_000
"""No configuration has more, aliases written out; a kilobyte of YAML can say billions."""
BITS = 8192
"""Python refuses to print an integer of many more."""

# What the kinds and limits of JSON Schema are called in messages.
KINDS = {
    "string": "text (in quotes)",
    "array": "a list",
    "object": "keys and values",
    "integer": "an integer",
    "number": "a finite number",
    "boolean": "true or false",
}
LIMITS = {
    "minimum": "be at least {}",
    "exclusiveMinimum": "be greater than {}",
    "maximum": "be at most {}",
    "minItems": "have at least {} entry",
    "minLength": "have at least {} character",
    "maxLength": "have at most {} characters",
    "uniqueItems": "have no entry twice",
}


def read_yaml(file: Path | str) -> dict[str, Any]:
    """A YAML file's mapping, read without any tag that could construct objects.

    A key given twice is refused: YAML readers keep the last one without a word.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen:
                    line = key.start_mark.line + 1
                    raise InputError(f"{file}: {key.value!r} is given twice, again in line {line}")
                seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
            return super().construct_mapping(node, deep)

    try:
        loader = Loader(Path(file).read_text(encoding="utf-8"))
        node = loader.get_single_node()
        _check_size(node, str(file))
        content = loader.construct_document(node) if node else None
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected keys and values at the top level")
    return content


def studies_at_hand(file: Path | str) -> list[str]:
    """The study files beside one that is not there, in config/, or in the project's own config/."""
    own = PROJECT / "config"
    for folders in ((Path(file).parent, Path("config")), (own,)):
        there = [
            path for folder in dict.fromkeys(folders) for path in sorted(folder.glob("*.yaml"))
        ]
        named = [str(path) for path in there if path.stem not in ("methods", "resources")]
        if named:
            return named
    return []


def _check_size(content: Any, file: str) -> None:
    """Refuse what would take for ever to go through, or could not be printed."""
    sizes: dict[int, int] = {}

    def size(value: Any) -> int:
        value = getattr(value, "value", value)  # of a YAML node
        if type(value) is int and value.bit_length() > BITS:
            raise InputError(f"{file}: holds an integer of {value.bit_length()} bits")
        if not isinstance(value, (dict, list, tuple)):
            return 1
        if id(value) not in sizes:
            sizes[id(value)] = total = 1  # met again while it is counted, it holds itself
            for entry in value.values() if isinstance(value, dict) else value:
                total += size(entry)
            sizes[id(value)] = total
        return sizes[id(value)]

    try:
        entries = size(content)
    except RecursionError:
        raise InputError(f"{file}: nested too deeply") from None
    if entries > ENTRIES:
        raise InputError(f"{file}: more than {ENTRIES:,} entries, aliases written out")


def validate(content: Mapping[str, Any], schema: str, file: str) -> None:
    """Check against a JSON schema; the first error becomes one line with key and allowed values."""
    import jsonschema

    _check_size(content, file)
    definition = json.loads((SCHEMAS / f"{schema}.schema.json").read_text(encoding="utf-8"))
    # JSON Schema takes 1.0 for an integer, YAML's .inf and .nan for numbers, "\ud800" for text.
    strict = jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
        {
            "integer": lambda _, value: type(value) is int,
            "string": lambda _, value: TEXT.fits(value),
            "number": lambda _, value: type(value) in (int, float) and is_finite(value),
        }
    )
    validator = jsonschema.validators.extend(jsonschema.Draft202012Validator, type_checker=strict)
    try:
        errors = [*validator(definition, registry=_registry()).iter_errors(content)]
    except RecursionError:
        raise InputError(f"{file}: nested too deeply") from None
    errors.sort(key=lambda e: [str(part) for part in e.absolute_path])
    if errors:
        said = _explain_missing(errors) if errors[0].validator == "required" else None
        raise InputError(f"{file}: {' '.join((said or _explain(errors[0])).split())}")


def _registry() -> Any:
    """What the schemas refer to in one another."""
    import referencing

    shared = json.loads((SCHEMAS / "datasets.schema.json").read_text(encoding="utf-8"))
    return referencing.Registry().with_resource(
        shared["$id"], referencing.Resource.from_contents(shared)
    )


def _explain_missing(errors: list[Any]) -> str:
    """Every key that is missing, not the first alone."""
    keys = [
        _key([*error.absolute_path, key])
        for error in errors
        if error.validator == "required"
        for key in error.validator_value
        if key not in error.instance
    ]
    return f"{', '.join(dict.fromkeys(keys))}: missing, must be given"


def _explain(error: Any) -> str:
    where = _key(error.absolute_path)
    if error.validator == "additionalProperties":
        allowed = sorted(error.schema.get("properties", {}))
        unknown = min(set(error.instance) - set(allowed), key=str)
        key = _key([*error.absolute_path, str(unknown)])
        return f"{key}: unknown key{did_you_mean(str(unknown), allowed)}"
    value, wanted = error.instance, error.validator_value
    # A list, or keys and values, are told by their key: only what is short is repeated.
    what = "" if isinstance(value, (dict, list)) else json.dumps(value, default=str)
    what = f"{what if len(what) <= 60 else f'{what[:57]}...'} " if what else ""
    hint = error.schema.get("description", "")
    hint = f" ({hint})" if hint else ""
    if isinstance(value, str) and error.validator == "type":
        hint = _meant_number(value, wanted) or hint
    if error.validator == "enum":
        allowed = [str(v) for v in wanted]
        return f"{where}: {what}is unknown{did_you_mean(str(value), allowed)}"
    if error.validator == "type":
        kinds = [
            KINDS.get(kind, kind) for kind in ([wanted] if isinstance(wanted, str) else wanted)
        ]
        return f"{where}: {what}must be {' or '.join(kinds)}{hint}"
    if error.validator in LIMITS:
        return f"{where}: {what}must {LIMITS[error.validator].format(wanted)}{hint}"
    return f"{where}: {what}is not allowed{hint}"


def _meant_number(text: str, wanted: str) -> str:
    """How to write a number that YAML took for text: 1e-4 lacks the point, others have quotes."""
    import yaml

    try:
        value = float(text) if wanted in ("number", "integer") else math.nan
    except ValueError:
        return ""
    if not is_finite(value) or (wanted == "integer" and not value.is_integer()):
        return ""
    number = text.strip().lower()
    if "e" in number and wanted == "number":
        digits, _, power = number.partition("e")
        digits += "" if "." in digits else ".0"
        number = f"{digits}e{power if power[0] in '+-' else f'+{power}'}"
    if wanted == "integer" or yaml.safe_load(number) != value:
        number = f"{int(value)}" if value.is_integer() else repr(value)
    quotes = "" if "e" in text.lower() else ", without quotes"
    return f": write {number}{quotes}"


def _key(path: Any) -> str:
    key = ""
    for part in path:
        key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
    return key or "top level"

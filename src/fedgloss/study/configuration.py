"""Reading configuration files: YAML without surprises, checked against its types once."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from fedgloss.errors import InputError
from fedgloss.study.refusals import explain
from fedgloss.study.schema.kinds import Model

M = TypeVar("M", bound=Model)
CONSTANTS = Path(__file__).parent / "constants"
"""What the package brings: the constants of the paper, its numbers, and what jobs need."""
PROJECT = Path(__file__).resolve().parents[3]
"""The checkout, where this is one; of an installed package, a folder with no studies."""

INTEGER, REAL = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
OTHER_BASE = re.compile("[-+]?0[0-7_]+|.*:.*")
"""The numbers of YAML 1.1 that nobody means: 010 for 8, 1:30 for 90; not 0, 0.1 or 0x1F."""
ENTRIES = 100_000
"""No configuration has more, aliases written out; a kilobyte of YAML can say billions."""
BITS = 8192
"""Python refuses to print an integer of many more."""


def read_yaml(file: Path | str, ours: bool = False) -> dict[str, Any]:
    """A YAML file's mapping, read without any tag that could construct objects, see `loader`.

    ours: a file of the package, for libyaml if it is there: in a tenth of the time, but it takes a
    somewhat different YAML, and brackets without end would exhaust its stack.
    """
    import yaml

    try:
        reader = loader(str(file), ours)(Path(file).read_text(encoding="utf-8"))
        node = reader.get_single_node()
        _check_size(node, str(file))
        content = reader.construct_document(node) if node else None
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: expected keys and values at the top level")
    return content


def loader(where: str, ours: bool = False) -> Any:
    """PyYAML's safe loader, but for what YAML readers take without a word: InputError with `where`.

    That is a key given twice, of which they keep the last, and numbers to another base than ten.
    """
    import yaml

    base: Any = yaml.SafeLoader
    if ours:
        base = getattr(yaml, "CSafeLoader", base)

    class Loader(base):
        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            seen = set()
            for key, _ in node.value:
                if isinstance(key, yaml.ScalarNode) and key.value in seen:
                    line = key.start_mark.line + 1
                    raise InputError(f"{where}: {key.value!r} is given twice, again in line {line}")
                seen.add(key.value if isinstance(key, yaml.ScalarNode) else id(key))
            return super().construct_mapping(node, deep)

        def construct_number(self, node: Any) -> float:
            construct = {INTEGER: self.construct_yaml_int, REAL: self.construct_yaml_float}
            value = construct[node.tag](node)
            if OTHER_BASE.fullmatch(node.value):
                raise InputError(
                    f"{where}: {node.value:.60} in line {node.start_mark.line + 1} is {value} in"
                    " YAML, where a leading 0 means base 8 and a colon base 60; allowed: numbers"
                    " without, and text in quotes"
                )
            return value

    for tag in (INTEGER, REAL):
        Loader.add_constructor(tag, Loader.construct_number)
    return Loader


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


def validate(content: Mapping[str, Any], kind: type[M], file: str) -> M:
    """What a file holds, as its type; InputError with key and what is allowed if it is not."""
    _check_size(content, file)
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{file}: {' '.join(explain(kind, error).split())}") from None
    except RecursionError:
        raise InputError(f"{file}: nested too deeply") from None

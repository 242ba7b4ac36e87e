"""What was asked of Snakemake, checked where Snakemake itself would end in a traceback.

It reads `--configfile` before the workflow, takes the words that follow for further files, and
reads lists and mappings of `--config` as text. profiles/default has `check_command_line` called
first of all; the workflow reads `--config` and its targets with the other two.
"""

import os
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedgloss.errors import InputError, did_you_mean
from fedgloss.study.configuration import loader, read_yaml, studies_at_hand
from fedgloss.study.layout import HERE

if TYPE_CHECKING:
    from fedgloss.study.study import Cell, Study

FILES, VALUES = "--configfile", "--config"
LETTERS = re.compile(r"-[ntkfFlSDpa]*C(?:=?(.+))?", re.S)
"""-C for --config, its value in the same word or not, also behind letters that have no value."""
VALUE = re.compile(r"[A-Za-z_][\w-]*\w=.*", re.S)


def check_command_line(arguments: Sequence[str]) -> None:
    """End with one line and exit code 2 if Snakemake's command line cannot be meant so."""
    try:
        for number, word in enumerate(_words(arguments, FILES)):
            if not Path(word).is_file():
                _refuse_file(word, first=number == 0)
            read_yaml(word)  # of what is no YAML, Snakemake names no file
        for word in _words(arguments, VALUES):
            if not VALUE.fullmatch(word):
                raise InputError(
                    f"--config: {word!r} is not a key of the study with its value, as in"
                    " preset=paper or 'training={rounds: 60}'; targets go before the options"
                )
    except InputError as error:
        refuse(error)


def asks_for_snakemakes_own(arguments: Sequence[str]) -> bool:
    """Whether the command line says itself how much Snakemake is to show."""
    own = ("--quiet", "-q", "--printshellcmds", "-p", "--logger")
    return any(argument.partition("=")[0] in own for argument in arguments)


def refuse(error: InputError) -> None:
    """Say what is wrong and end, as the `fedgloss` command does."""
    print(f"fedgloss: error: {error}", file=sys.stderr)
    sys.exit(2)


def _words(arguments: Sequence[str], wanted: str) -> list[str]:
    """The words that Snakemake takes as an option's values.

    InputError where it is given twice: Snakemake forgets the first without a word.
    """
    times: list[list[str]] = []
    taking = False
    for argument in arguments:
        if argument == "--":
            break
        if argument.startswith("-") and len(argument) > 1:
            option, value = _option(argument)
            if taking := option == wanted:
                times.append([] if value is None else [value])
                taking = value is None
        elif taking:
            times[-1].append(argument)
    words = [word for some in times for word in some]
    if len(times) > 1:
        raise InputError(
            f"{wanted}: is given {len(times)} times, of which Snakemake takes the last alone; give"
            f" it once: {shlex.join([wanted, *words])}"
        )
    return words


def _option(argument: str) -> tuple[str, str | None]:
    """An option's name, however it is spelt, and its value if that is in the same word."""
    if letters := LETTERS.fullmatch(argument):
        return VALUES, letters[1]
    name, equals, value = argument.partition("=")
    return FILES if name.startswith("--configf") else name, value if equals else None


def _refuse_file(word: str, first: bool) -> None:
    if not first:
        raise InputError(
            f"--configfile: takes {word!r} for a second study file, which is not there; write"
            " --configfile=FILE, with an equals sign, or targets before it"
        )
    raise InputError(
        f"--configfile: there is no file {word!r}{did_you_mean(word, studies_at_hand(word))}"
    )


def config_values(entries: Iterable[str]) -> dict[str, Any]:
    """The values of `--config`, read as a study file is: [0] is a list of one number.

    What is no YAML is text, as for Snakemake: a title may be anything. InputError as of a file.
    """
    import yaml

    values, read_as = {}, loader("--config")
    for entry in entries:
        key, _, text = entry.partition("=")
        try:
            values[key] = read_as(text).get_single_data()
        except InputError:
            raise
        except (yaml.YAMLError, ValueError, RecursionError):
            values[key] = text
    return values


def check_keys(values: Mapping[str, Any], allowed: Sequence[str]) -> None:
    """InputError for a key of `--config` that a study does not have, nor a call of its own."""
    for key in values:
        if key not in allowed:
            raise InputError(f"--config: {key}: unknown key{did_you_mean(key, allowed)}")


def of_values(error: InputError, file: str) -> InputError:
    """What is wrong with a study that `--config` has changed, said of `--config` if it is that.

    It is if the study's file is fine without.
    """
    from fedgloss.study.study import load_study

    try:
        load_study(file)
    except InputError:
        return error
    return InputError(f"--config: {str(error).removeprefix(f'{file}: ')}")


def merge(config: Any, changes: Any) -> Any:
    """A study with values of the command line in it: keys below keys, all else replaced."""
    if not isinstance(config, Mapping) or not isinstance(changes, Mapping):
        return changes
    return {**config, **{key: merge(config.get(key), value) for key, value in changes.items()}}


def check_target(target: str, makes: bool, known: Sequence[str]) -> None:
    """InputError for a target that no rule makes; `known` are those with a name."""
    if not makes and target not in known and not Path(target).exists():
        raise InputError(
            f"there is no target {target!r} in this study{did_you_mean(target, known)}"
        )


def check_study_of(target: str, study: "Study") -> None:
    """InputError for a target that is a result of another study than the one that is built."""
    owner = HERE.study_of(Path(os.path.relpath(target)))
    if owner is None or owner == study.name:
        return
    files = [file for file in studies_at_hand(study.file) if _name_in(file) == owner]
    raise InputError(
        f"{target!r} is of the study {owner!r}, and {study.file} is {study.name!r}; needs"
        f" --configfile{f'={files[0]}' if files else ' with the file of that one'}"
    )


def _name_in(file: str) -> Any:
    """The name of the study in a file, if it can be read."""
    try:
        return read_yaml(file).get("study")
    except InputError:
        return None


def cells_below(study: "Study", path: str, others: Sequence[str] = ()) -> "list[Cell]":
    """A study's cells whose paths begin with these folders, such as cifar10 or cifar10/alpha-0.

    InputError if there are none; `others`: what else might have been meant.
    """
    wanted = path.strip("/")
    found = [cell for cell in study.cells if f"{cell}/".startswith(f"{wanted}/" if wanted else "")]
    if not found:
        parts = [str(cell).split("/") for cell in study.cells]
        known = dict.fromkeys("/".join(part[:n]) for part in parts for n in range(1, len(part) + 1))
        what = "table, figure or beginning" if others else "beginning"
        raise InputError(
            f"{study.file}: {path!r} is no {what} of a cell's path"
            f"{did_you_mean(path, [*others, *known]).split('; allowed')[0]}"
        )
    return found


def part_of(study: "Study", only: Any) -> "list[Cell]":
    """The cells that `--config only=...` names, of which it is said if there are none."""
    if not isinstance(only, (str, int, float)):
        example = "/".join(str(study.cells[0]).split("/")[:2])
        raise InputError(f"--config: only: must be how cells' paths begin, such as only={example}")
    try:
        return cells_below(study, str(only))
    except InputError as error:
        raise InputError(f"--config: only: {str(error).removeprefix(f'{study.file}: ')}") from None

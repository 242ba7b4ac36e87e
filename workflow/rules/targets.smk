"""What the command line asks for.

REQUIRES  STUDY, PART, LAYOUT (study.smk)
PROVIDES  asked_for, cell_named, wanted; refuse_unknown_targets, called at the Snakefile's end
"""

import contextlib
import functools
import io
import os
import sys
from pathlib import Path

from fedgloss.errors import InputError
from fedgloss.study import invocation


@functools.cache
def asked_for():
    """What the command line names: targets, then those of --until, --omit-from and --forcerun."""
    if not workflow.is_main_process or Path(sys.argv[0]).name != "snakemake":
        return (), ()
    from snakemake.cli import parse_args

    with contextlib.redirect_stderr(io.StringIO()):  # what it says of profiles has been said
        _, asked = parse_args(sys.argv[1:])
    return (*asked.targets,), (*asked.until, *asked.omit_from, *asked.forcerun)


def cell_named(word):
    """The path of the cell whose file a word of the command line is, or None."""
    return LAYOUT.cell_of(STUDY.name, Path(os.path.relpath(word)))


def refuse_unknown_targets(names):
    """Refuse, in one line, what no rule makes; `names` are the targets that have one."""
    targets, others = asked_for()
    rules = [rule.name for rule in workflow.rules]
    try:
        for target in targets:
            cell = cell_named(target)
            if cell and target not in rules:
                STUDY.cell(cell)
            file = os.path.relpath(target) if os.sep in target else target
            makes = target in rules or any(rule.is_producer(file) for rule in workflow.rules)
            if not makes:
                invocation.check_study_of(target, STUDY)
            invocation.check_target(target, makes, names)
        for word in dict.fromkeys(others):
            invocation.check_target(word, word in rules or os.sep in word, [*names, *rules])
    except InputError as error:
        invocation.refuse(error)


def wanted(cells):
    """Those of these cells that this run is to build: all, or with `--config only=...` a part."""
    part = {*PART}
    return [cell for cell in dict.fromkeys(cells) if cell in part]

"""The `fedgloss` command: every step of the workflow, usable without it.

Exit codes: 0 done (a diverged run is a result); 2 bad input, said in one line; 75 interrupted by a
signal after writing a checkpoint, run the same command again to go on.
"""

import argparse
import atexit
import contextlib
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from fedgloss import __version__
from fedgloss.errors import InputError, of_system
from fedgloss.jobs import commands, studies
from fedgloss.study.layout import HERE

DESCRIPTION = """\
FedGloSS, rebuilt: federated learning with global sharpness-aware minimisation.

The steps, in the order of the workflow (each has its own --help):
  prepare      a data set, as uint8 tensors with a manifest
  partition    which client holds which image
  train        one cell: an algorithm, a data set, an alpha, a model, a seed
  hessian      the largest Hessian eigenvalues of a trained cell
  locals       the largest Hessian eigenvalue of its last local models
  landscape    the loss surface around a trained cell
  line         the loss on the line between two models
  promote      which trials of a study's sweep go on
  choose       what a study's sweep has chosen, for another study to take
  table        the tables of a study, or some: Markdown, LaTeX, CSV
  figure       the figures of a study, or some: PNG, PDF
  report       one self-contained HTML page for a study
Looking at a study:
  check        validate a study file
  cells        list its cells
  job          print what a job about a cell is told, as `train` and its like take it
  status       the grid: done, diverged, without models, outdated, running, missing
  estimate     the hours still to be spent
  compare      two studies, or two variants of one, over paired seeds
Sharing:
  collect      finished runs in one small archive, with checksums
  import       finished runs of an archive or another results folder, verified
"""


OF_THE_WORKFLOW = ("pydantic", "yaml", "pandas", "tabulate", "matplotlib", "jinja2", "sklearn")
"""Packages that training needs none of."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code, or, without `arguments`, ends the process with it."""
    code = _run(arguments)
    if arguments is None:
        _leave(code)
    return code


def _leave(code: int) -> NoReturn:
    """End the process at once; taking torch or matplotlib apart first takes a third of a second."""
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _run(arguments: list[str] | None) -> int:
    """Run one command; returns the exit code."""
    try:
        options = _parser().parse_args(arguments)
        code = options.run(options) or 0
        sys.stdout.flush()
        return code
    except InputError as error:
        return _refuse(error)
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in OF_THE_WORKFLOW:
            raise
        return _refuse(InputError(f"needs the package {name}; pip install 'fedgloss[workflow]'"))
    except BrokenPipeError:  # the reader, `head` for example, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _refuse(of_system(error))


def _refuse(error: InputError) -> int:
    print(f"fedgloss: error: {error}", file=sys.stderr)
    return 2


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


class _Command(_Parser):
    """Reads what may be left out, such as a table's name, after an option too."""

    _begun = False

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        if self._begun:  # Python before 3.12 comes here again, for options and the rest in turn
            return super().parse_known_args(args, namespace)
        self._begun = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._begun = False


def _at_least(least: float, kind: type = int) -> Callable[[str], float]:
    """How argparse reads a finite number that is not smaller than `least`."""

    def number(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not least <= value < math.inf:
            name = {int: "an integer", float: "a number"}[kind]
            raise argparse.ArgumentTypeError(f"{text!r} is not {name} of at least {least}")
        return value

    return number


def _share(text: str) -> float:
    """How argparse reads a number between 0 and 1."""
    value = _at_least(0, float)(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0 and below 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "fedgloss", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"fedgloss {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, parser_class=_Command)

    def command(name: str, run: Callable, help: str) -> argparse.ArgumentParser:
        sub = subparsers.add_parser(name, description=help[0].upper() + help[1:] + ".")
        sub.set_defaults(run=run)
        return sub

    sub = command("prepare", commands.prepare, "write a data set as uint8 tensors with a manifest")
    sub.add_argument("source", help="digits, cifar10, cifar100, folder, or landmarks")
    sub.add_argument("--out", type=Path, required=True, help="folder to write")
    sub.add_argument("--root", type=Path, help="folder that holds the original files")
    sub.add_argument("--download", action="store_true", help="fetch CIFAR if it is not there")
    sub.add_argument(
        "--images", default="clean", help="CIFAR: clean (default), or official_overlap"
    )
    sub.add_argument(
        "--size", type=_at_least(1), help="folder, landmarks: side of the stored images"
    )
    sub.add_argument("--name", help="folder: the data set's name")

    sub = command("partition", commands.partition, "decide which client holds which image")
    sub.add_argument("--data", type=Path, required=True, help="folder of a prepared data set")
    sub.add_argument("--out", type=Path, required=True, help="partition file to write (JSON)")
    sub.add_argument("--scheme", required=True, help="dirichlet, iid, natural, file, ...")
    sub.add_argument("--clients", type=_at_least(1), help="number of clients")
    sub.add_argument("--alpha", help="concentration, as text: 0, 0.05, ...")
    sub.add_argument(
        "--seed", type=_at_least(0), default=0, help="seed of the generator (default 0)"
    )
    sub.add_argument("--file", type=Path, help="file: the split to import")
    sub.add_argument(
        "--held-out",
        type=_share,
        help="the share of its images that every client keeps out of its training, as 0.2",
    )
    sub.add_argument(
        "--held-out-seed", type=_at_least(0), default=0, help="which images (default 0)"
    )
    sub.add_argument("--figure", type=Path, help="also draw clients x classes (PNG)")

    sub = command(
        "train",
        commands.train,
        "train one cell, or several together on one device: metrics, models, manifest",
    )
    _add_jobs(sub, "; cells trained together share data set, model and amount of work")
    sub.add_argument(
        "--checkpoint-rounds",
        type=_at_least(1),
        default=1000,
        help="rounds between checkpoints (default 1000)",
    )
    sub.add_argument(
        "--checkpoint-seconds",
        type=_at_least(0, float),
        default=300,
        help="and seconds (default 300)",
    )
    sub.add_argument(
        "--until", type=_at_least(1), help="pause after so many rounds, with a checkpoint"
    )
    sub.add_argument(
        "--paused",
        type=Path,
        nargs="+",
        default=[],
        help="with --until: for each cell, the file to write with what it is worth so far (JSON)",
    )
    sub.add_argument("--tensorboard", type=Path, help="folder for TensorBoard's scalars")
    sub.add_argument(
        "--backend",
        default="auto",
        help="auto (default), autograd, stacked, recorded, graph, or fused",
    )

    sub = command("hessian", commands.hessian, "write the largest Hessian eigenvalues of cells")
    _add_jobs(sub)
    sub = command("locals", commands.locals_, "write the same of the last round's local models")
    _add_jobs(sub)
    sub = command("landscape", commands.landscape, "write the loss surfaces around cells as CSV")
    _add_jobs(sub)
    sub = command("line", commands.line, "write the loss between two models as CSV")
    _add_jobs(sub)

    sub = command("promote", studies.promote, "write which trials of a sweep reach a rung")
    _add_study(sub)
    sub.add_argument("label", help="the label that is searched")
    sub.add_argument("rung", type=_at_least(1), help="1: those that go on after the first stage")
    sub = command("choose", studies.choose, "write the settings that a study's sweep has chosen")
    _add_study(sub)
    for name, run, help in (
        ("table", studies.table, "write tables of a study: Markdown, LaTeX, CSV"),
        ("figure", studies.figure, "draw figures of a study: PNG, PDF"),
    ):
        sub = command(name, run, help)
        _add_study(sub)
        named = f"names of {name}s in the study file; without any, all of them"
        sub.add_argument("name", nargs="*", help=named)
    sub = command("report", studies.report, "write one self-contained HTML page for a study")
    _add_study(sub)

    sub = command("check", studies.check, "validate a study file")
    sub.add_argument("config", help="study file (YAML)")
    sub = command("cells", studies.cells, "list the cells of a study")
    sub.add_argument("config", help="study file (YAML)")
    sub = command("job", studies.job, "print a job file: what a job about a cell is told")
    _add_study(sub)
    sub.add_argument(
        "cell", help="its path, e.g. digits/alpha-0/smallcnn/fedgloss/seed-0, or its folder"
    )
    sub.add_argument(
        "kind",
        nargs="?",
        default="train",
        choices=["train", "hessian", "locals", "landscape", "line"],
        metavar="kind",
        help="train (default), hessian, locals, landscape, or line",
    )
    sub = command("status", studies.status, "show what of a study is done or missing")
    _add_study(sub)
    sub.add_argument(
        "--watch", action="store_true", help="show it again whenever it changes, until all is done"
    )
    sub.add_argument(
        "--every",
        type=_at_least(1, float),
        default=5,
        help="watch: seconds between two looks (default 5)",
    )
    sub = command("estimate", studies.estimate, "show what the rest of a study will cost")
    _add_study(sub)
    sub.add_argument(
        "target",
        nargs="?",
        default="",
        help="a table, a figure, a part of the paper such as figure6, or how cells' paths begin,"
        " e.g. cifar10/alpha-0 (default: all)",
    )
    sub.add_argument(
        "--details", action="store_true", help="a line for each condition, with its time limit"
    )
    sub = command(
        "compare", studies.compare, "compare two studies, or two variants of one, seed by seed"
    )
    sub.add_argument("config", help="study file (YAML)")
    sub.add_argument("other", nargs="?", help="the other study's file (default: the same)")
    sub.add_argument(
        "--of",
        nargs=3,
        metavar=("FIELD", "FIRST", "SECOND"),
        help="what differs: dataset, alpha, model or algorithm, and its two values, e.g."
        " --of algorithm fedgloss-printed fedgloss-released",
    )
    sub.add_argument(
        "--results", type=Path, default=HERE.results, help="results folder (default results)"
    )
    sub.add_argument("--other-results", type=Path, help="the other's (default: the same)")
    sub.add_argument("--csv", type=Path, help="file to write, with full precision")
    sub = command("collect", studies.collect, "put finished runs into one small archive")
    _add_study(sub)
    sub.add_argument("--out", type=Path, help="file to write (default STUDY.zip)")
    sub.add_argument("--weights", action="store_true", help="the models, too")
    sub = command(
        "import", studies.import_runs, "take over finished runs of an archive or another folder"
    )
    sub.add_argument("source", type=Path, help="an archive, or the other results folder")
    _add_study(sub)
    return parser


def _add_jobs(sub: argparse.ArgumentParser, of_several: str = "") -> None:
    sub.add_argument(
        "job", type=Path, nargs="+", help=f"job file (JSON), see fedgloss job{of_several}"
    )
    sub.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:N")
    sub.add_argument("--threads", type=_at_least(1), default=1, help="CPU threads (default 1)")


def _add_study(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("config", help="study file (YAML)")
    sub.add_argument(
        "--results", type=Path, default=HERE.results, help="results folder (default results)"
    )

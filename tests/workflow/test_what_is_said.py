"""What one sees of a run: bars on a terminal, plain short lines elsewhere, why a job failed."""

import os
import pty
import re
import resource
import subprocess

import pytest

from fedgloss.study.layout import HERE
from workflow.project import SMOKE, build, environment, planned, rules, snakemake

FIRST = "digits/alpha-0/smallcnn/fedavg/seed-0"
CELL = str(HERE.metrics("smoke", FIRST))
AGAIN = (SMOKE, "--force", "--", CELL)


def on_a_terminal(project, *arguments):
    """What Snakemake writes to a terminal of 100 columns, control characters included."""
    screen, terminal = pty.openpty()
    process = subprocess.Popen(
        ["snakemake", "--cores", "2", *arguments],
        cwd=project,
        env={**environment(project), "TERM": "xterm", "COLUMNS": "100", "LINES": "40"},
        stdout=terminal,
        stderr=terminal,
    )
    os.close(terminal)
    shown = b""
    while True:
        try:
            part = os.read(screen, 65536)
        except OSError:  # the terminal's other end is closed
            part = b""
        if not part:
            break
        shown += part
    os.close(screen)
    assert process.wait() == 0
    return shown.decode()


def test_without_a_terminal_a_run_is_a_short_line_for_each_job(built):
    lines = (built / "log").read_text(encoding="utf-8").splitlines()
    assert len(lines) < 50 and max(map(len, lines)) < 150, lines
    assert "\x1b" not in "".join(lines)
    jobs = [line.split()[0] for line in lines if line.split()]
    expected = {"prepare": 1, "partition": 1, "train": 4, "hessian": 2, "table": 1, "report": 1}
    # Once in the summary beforehand, then for each job.
    assert {rule: jobs.count(rule) - 1 for rule in expected} == expected
    counts = [f"{n} of 4" for n in range(1, 5)]
    trained = [line for line in lines if line.startswith("train ") and " % " in line]
    assert all(n in line for n, line in zip(counts, trained, strict=True))


def test_the_whole_of_what_snakemake_says_is_in_its_log(built):
    logs = [*(built / ".snakemake" / "log").glob("*.log")]
    text = "".join(log.read_text(encoding="utf-8") for log in logs)
    assert text.count("rule train_seeds:\n") == 2 and "4 of 4" in text


def test_a_cell_that_is_made_again_shows_its_accuracy(finished):
    accuracy = (finished / CELL).with_name("manifest.json").read_text(encoding="utf-8")
    accuracy = float(accuracy.split('"accuracy": ')[1].split(",")[0])
    assert f"train      fedavg    alpha 0  seed 0  {accuracy:6.2f} % " in build(finished, *AGAIN)


def test_a_terminal_shows_bars_and_the_same_lines(finished):
    shown = on_a_terminal(finished, *AGAIN)
    for words in ("Workflow Progress", "Total Progress", "train      fedavg    alpha 0  seed 0 "):
        assert words in shown
    assert "fedgloss train --settings" not in shown


def test_snakemakes_own_report_has_the_tables_figures_and_the_page_with_captions(finished):
    said = build(finished, SMOKE, "--report", "report.html")
    assert [file in said for file in ("accuracy.csv", "curves.png", "smoke.html")] == [True] * 3
    page = (finished / "report.html").read_text(encoding="utf-8")
    captions = ("It opens without a network", "beside the published numbers", "full precision")
    for words in ("Tables", "Figures", "The page", *captions):
        assert words in page, words


def test_a_failed_job_says_why_in_one_line_and_shows_its_log(finished):
    (finished / HERE.checkpoints("smoke", FIRST)).write_text("in the way")
    shown = snakemake(finished, *AGAIN)
    assert shown.returncode == 1
    text = shown.stdout + shown.stderr
    (cause,) = [line for line in text.splitlines() if line.startswith("failed: ")]
    assert cause.startswith("failed: train fedavg alpha 0 seed 0: results/checkpoints/smoke/")
    assert cause.endswith(f"{FIRST}: is not a folder")
    assert text.index(cause) < text.index("fedgloss: error: ")
    assert "seed-0.log" in text and "CalledProcessError" not in text
    assert max(map(len, text.splitlines())) < 400


def test_a_run_that_was_edited_by_hand_is_told_at_the_start_and_under_the_table(finished):
    """Snakemake sees a newer file and makes the table again, or has nothing to do."""
    with open(finished / CELL, "a", encoding="utf-8") as metrics:
        metrics.write("7,99,0.1\n")
    line = f"outdated, so left out of tables and figures: {FIRST}: metrics.csv has changed"
    text = build(finished, "table_accuracy", SMOKE)
    assert text.count(line) == 1 and text.index(line) < text.index("table      accuracy")
    table = (finished / HERE.table("smoke", "accuracy")["md"]).read_text(encoding="utf-8")
    assert table.startswith("**accuracy (3 of 4 runs)**")
    assert f"1 run is outdated and left out, as if not run: {FIRST}, metrics.csv" in table
    text = build(finished, "table_accuracy", SMOKE)
    assert text.count(line) == 1 and "Nothing to be done" in text


def test_a_run_that_is_going_to_be_made_again_is_not_called_outdated(finished):
    changed = ("--dry-run", SMOKE, "--config", "training={rounds: 5, last: 1}")
    assert "outdated" not in build(finished, *changed)


def test_a_dry_run_of_the_paper_is_a_page_after_seconds(fresh):
    """Of a core's time, not of a clock's: others may be at work, too."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    text = build(fresh, "--configfile=config/paper.yaml", "--dry-run")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < 10
    assert text.count("\n") < 50
    assert "data/cifar100: missing, must hold cifar-100-python, see docs/data.md" in text
    counts = "459 cells to train, 144 Hessians, 66 sets of local models, 33 loss surfaces"
    assert f"paper: {counts}, 22 lines between models: " in text and re.search(
        r"^ train +459 $", text, re.M
    )


def test_the_time_here_is_that_on_the_cores_that_are_given(fresh):
    """Of this machine's: on more no job runs sooner."""
    assert "here, on 1 core: about" in build(fresh, SMOKE, "--dry-run", "--cores=1")
    all_cores = f"here, on {len(os.sched_getaffinity(0))} core"
    for given in ("all", "100000"):
        assert all_cores in build(fresh, SMOKE, "--dry-run", f"--cores={given}")


def test_a_part_of_a_study_needs_the_jobs_of_its_cells(fresh):
    part = planned(fresh, SMOKE, "--config", "only=digits/alpha-0/smallcnn/fedavg")
    expected = {"prepare": 1, "partition": 1, "train_seeds": 1, "hessian_seeds": 1}
    assert rules(part) == {**expected, "table": 1, "figure": 1, "report": 1}
    part = planned(
        fresh, "table_accuracy", SMOKE, "--config", "only=digits/alpha-0/smallcnn/fedavg"
    )
    assert rules(part) == {**expected, "table": 1}


@pytest.mark.parametrize(
    ("only", "words"),
    [("cifar10", "'cifar10' is no beginning"), ("", "must be how cells' paths begin, such as")],
)
def test_a_part_that_is_not_there_is_refused(only, words, fresh):
    shown = snakemake(fresh, SMOKE, "--config", f"only={only}")
    assert shown.returncode == 2
    assert f"fedgloss: error: --config: only: {words}" in shown.stderr

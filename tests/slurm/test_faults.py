"""What a cluster does to jobs: after each fault the results are those of an undisturbed run.

Every job is stopped at a known place before something happens to it (`project.STAND_IN`), so that
nothing here depends on how fast the machine is.
"""

import contextlib
import os
import signal
import socket
import subprocess
from types import SimpleNamespace

import pytest

from slurm import cluster
from slurm.project import CELLS, CHECKPOINT_ROUNDS, Run, results, target

pytestmark = pytest.mark.slow

FAILS, CANCELLED, REQUEUED, TIMES_OUT, OUTLIVES = CELLS
DISTURBED = (FAILS, CANCELLED, REQUEUED, TIMES_OUT)


def squeue(job: str, what: str) -> str:
    """A fact about a job, also one that has ended."""
    command = ["squeue", "--noheader", "--states=all", f"--jobs={job}", f"--format={what}"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def finished(run: Run, cell: str) -> bool:
    """Whether all results of a cell are there."""
    return (run.folder / target(cell)[0]).with_name("manifest.json").exists()


def minutes(job: str) -> int:
    """A job's time limit, which squeue writes as [hours:]minutes:seconds."""
    *hours, minutes, _ = map(int, squeue(job, "%l").split(":"))
    return sum(hours) * 60 + minutes


def kill_node(*jobs: str) -> None:
    """End the node's daemon and all processes of these jobs, as a power cut would."""
    pids = []
    for job in jobs:
        shown = subprocess.run(["scontrol", "listpids", job], capture_output=True, text=True)
        pids += [int(line.split()[0]) for line in shown.stdout.splitlines()[1:]]
    cluster.stop("slurmd", signal.SIGKILL)
    steps = subprocess.run(["pgrep", "-f", "^slurmstepd: .*[[]"], capture_output=True, text=True)
    for pid in [*map(int, steps.stdout.split()), *pids]:
        with contextlib.suppress(ProcessLookupError):
            if pid > 0:
                os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def runs(new_run):
    """Four runs at once, since most of their time is waiting.

    jobs: four jobs come to grief, and one ends while the controller is away.
    accounting: a job ends while nobody can say so. refused: the queue takes no jobs at first.
    unseen: Snakemake is killed, and its job ends before it is called again.
    """
    names = ("jobs", "accounting", "refused", "unseen")
    jobs, accounting, refused, unseen = map(new_run, names)
    jobs.plan(FAILS, then="fail")
    for cell in (CANCELLED, REQUEUED, TIMES_OUT, OUTLIVES):
        jobs.plan(cell)
    jobs.start(*target(*DISTURBED, OUTLIVES))
    accounting.plan(FAILS)
    accounting.start(*target(FAILS), options=["--slurm-status-command=sacct"])
    refused.start(*target(FAILS), options=["--default-resources", "slurm_partition=closed"])
    unseen.plan(FAILS)
    unseen.start(*target(FAILS))

    jobs.before = {cell: jobs.stopped(cell) for cell in (*DISTURBED, OUTLIVES)}
    subprocess.run(["scancel", jobs.before[CANCELLED].job], check=True)
    cluster.scontrol("requeue", jobs.before[REQUEUED].job)
    job = unseen.stopped(FAILS).job
    unseen.kill()
    unseen.go_on(FAILS)
    unseen.wait(lambda: squeue(job, "%T") == "COMPLETED", "a job to end without Snakemake")
    unseen.start(*target(FAILS), options=["--unlock"])
    unseen.codes = [unseen.finish()]
    unseen.start(*target(FAILS))
    accounting.stopped(FAILS)
    cluster.stop("slurmdbd")
    accounting.go_on(FAILS)
    accounting.wait(lambda: finished(accounting, FAILS), "a job to end without accounting")
    accounting.wait(lambda: accounting.questions_failed() > 6, "sacct to be asked again and again")
    accounting.waited = accounting.process.poll() is None
    cluster.start("slurmdbd")

    for cell in (FAILS, CANCELLED, REQUEUED):  # a job that starts now would wait for minutes
        jobs.wait(lambda cell=cell: len(jobs.starts(cell)) > 1, f"{cell} to start again")
    cluster.stop("slurmctld")
    jobs.go_on(OUTLIVES)
    jobs.wait(lambda: finished(jobs, OUTLIVES), "a job to end without the controller")
    cluster.start("slurmctld")

    first = jobs.before[TIMES_OUT].job
    jobs.limits = [minutes(first)]
    cluster.scontrol("update", f"JobId={first}", "TimeLimit=1")
    refused.codes = [refused.finish()]
    cluster.scontrol("update", "PartitionName=closed", "State=UP")
    refused.start(*target(FAILS), options=["--default-resources", "slurm_partition=closed"])

    jobs.wait(lambda: squeue(first, "%T") == "TIMEOUT", "the time limit")
    for run in (jobs, accounting):
        run.codes = [run.finish()]
    for run in (refused, unseen):
        run.codes.append(run.finish())
    jobs.limits.append(minutes(jobs.starts(TIMES_OUT)[-1]))
    return SimpleNamespace(jobs=jobs, accounting=accounting, refused=refused, unseen=unseen)


def test_a_run_with_failing_jobs_succeeds(runs):
    assert runs.jobs.codes == [0], runs.jobs.log


@pytest.mark.parametrize("cell", [*DISTURBED, OUTLIVES])
def test_results_equal_those_of_a_local_run(runs, local, cell):
    expected = results(local, cell)
    assert len(expected) == 4
    assert results(runs.jobs.folder, cell) == expected


def test_a_job_that_ends_while_the_controller_restarts_runs_once(runs):
    assert len(runs.jobs.starts(OUTLIVES)) == 1


def test_a_job_that_outlives_its_snakemake_is_not_run_again(runs, local):
    assert runs.unseen.codes == [0, 0], runs.unseen.log
    assert len(runs.unseen.starts(FAILS)) == 1
    assert results(runs.unseen.folder, FAILS) == results(local, FAILS)


@pytest.mark.parametrize("cell", DISTURBED)
def test_a_disturbed_job_runs_twice_and_goes_on_from_its_newest_checkpoint(runs, cell):
    assert len(runs.jobs.starts(cell)) == 2
    # Later than where it stood if it was warned, and not killed at once.
    assert runs.jobs.resumed(cell) >= runs.jobs.before[cell].round >= CHECKPOINT_ROUNDS


def test_a_requeued_job_stays_the_same_job_and_the_others_are_submitted_again(runs):
    assert len(set(runs.jobs.starts(REQUEUED))) == 1
    for cell in (FAILS, CANCELLED, TIMES_OUT):
        assert len(set(runs.jobs.starts(cell))) == 2


def test_an_attempt_after_the_time_limit_has_twice_the_time(runs):
    first, second = runs.jobs.limits
    assert second in (2 * first, 2 * first - 1)  # each is rounded up to whole minutes


def test_each_job_has_a_gpu_of_its_own(runs):
    gpus = [runs.jobs.before[cell].gpus for cell in (*DISTURBED, OUTLIVES)]
    assert len(set(gpus)) == len(gpus) and None not in gpus


def test_a_job_that_ends_while_accounting_does_not_answer_is_neither_lost_nor_repeated(runs, local):
    assert runs.accounting.waited, "Snakemake cannot have known"
    assert runs.accounting.codes == [0], runs.accounting.log
    assert len(runs.accounting.starts(FAILS)) == 1
    assert results(runs.accounting.folder, FAILS) == results(local, FAILS)


def test_jobs_that_the_queue_refuses_run_with_the_next_call_of_the_same_command(runs, local):
    first, second = runs.refused.codes
    assert first == 1 and "sbatch failed" in runs.refused.log
    assert second == 0, runs.refused.log
    assert len(runs.refused.starts(FAILS)) == 1
    assert results(runs.refused.folder, FAILS) == results(local, FAILS)


@pytest.fixture(scope="module")
def node(new_run):
    """A run whose two jobs are first preempted, and then lose their node."""
    run = new_run("node")
    run.cells = (FAILS, REQUEUED)
    for cell in run.cells:
        run.plan(cell, times=2)
    run.start(*target(*run.cells))
    run.first = {cell: run.stopped(cell) for cell in run.cells}

    urgent = ["sbatch", "--wait", "--partition=urgent", f"--gpus={cluster.GPUS}", "--wrap=true"]
    subprocess.run([*urgent, "--output=/dev/null"], check=True)

    run.second = {cell: run.stopped(cell, attempt=2) for cell in run.cells}
    kill_node(*(stopped.job for stopped in run.second.values()))
    # SLURM would notice by itself, half a minute later.
    cluster.scontrol("update", f"NodeName={socket.gethostname()}", "State=DOWN", "Reason=lost")
    cluster.start("slurmd")
    run.code = run.finish()
    return run


def test_a_run_whose_jobs_are_preempted_and_lose_their_node_succeeds(node, local):
    assert node.code == 0, node.log
    for cell in node.cells:
        assert results(node.folder, cell) == results(local, cell)


def test_preemption_and_the_loss_of_a_node_cost_no_more_than_the_way_to_a_checkpoint(node):
    for cell in node.cells:
        assert len(node.starts(cell)) == 3
        assert len(set(node.starts(cell))) == 1, "SLURM itself puts such jobs back into the queue"
        assert node.resumed(cell) == node.second[cell].round > node.first[cell].round


def test_job_arrays_are_refused(new_run):
    run = new_run("array")
    run.start(*target(*CELLS), options=["--slurm-array-jobs=train"])
    assert run.finish() == 2
    assert run.log.count("fedgloss: error: --slurm-array-jobs: ") == 1
    assert "Traceback" not in run.log and not any(map(run.starts, CELLS))

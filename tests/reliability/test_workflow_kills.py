"""SIGKILL of Snakemake at random times: unlock, run again, and nothing is lost or done twice."""

import random
import subprocess

import psutil
import pytest

from fedgloss.study.study import load_study
from reliability.snakes import Snake, numbers, strays
from reliability.trainer import Cell
from unit.cells import OUTPUTS
from workflow.project import SMOKE, build, planned, snakemake

pytestmark = pytest.mark.slow

KILLS = 20


def test_twenty_kills_of_snakemake_during_the_smoke_study(fresh, built):
    """Every other time its jobs die with it; else they go on beside those of the next Snakemake."""
    moments = random.Random(0)
    finished, orphans = set(), []
    for n in range(KILLS):
        snake = Snake.start(fresh, SMOKE, name=f"log-{n}.txt")
        if n >= 2:  # else in its own start
            snake.wait_until_it_says("Select jobs", "Nothing to be done")
        try:
            snake.process.wait(timeout=moments.uniform(0, 4))
        except subprocess.TimeoutExpired:
            orphans += snake.kill(with_jobs=n % 2 == 0)
        else:
            assert snake.process.returncode == 0, "it was done before the twentieth kill"
        assert not finished & snake.made("started"), "finished work is not done again"
        finished |= snake.made("finished")
        unlock(fresh, by_command=n % 5 == 0)
    snake = Snake.start(fresh, SMOKE, name="log.txt")
    assert snake.process.wait() == 0, snake.said()
    assert not finished & snake.made("started")
    psutil.wait_procs(orphans)
    assert numbers(fresh) == numbers(built)
    assert not strays(fresh)
    assert planned(fresh, SMOKE) == []


def unlock(project, by_command):
    """`snakemake --unlock`, or what it does without the seconds of its start."""
    locks = [*(project / ".snakemake" / "locks").glob("*")]
    if by_command:
        build(project, SMOKE, "--unlock")
        assert not [path for path in locks if path.exists()]
    for path in locks:
        path.unlink(missing_ok=True)


# One cell that trains for some seconds

STUDY = """\
study: slow
seeds: [0]
training: {rounds: 400, clients_per_round: 2, batch_size: 28, evaluate_every: 300, last: 2}
grid:
  - {dataset: digits, alphas: ["0"], model: smallcnn, algorithms: [fedgloss]}
"""
SLOW = ("--configfile=config/slow.yaml", "only_fedgloss")
RUN = "results/runs/slow/digits/alpha-0/smallcnn/fedgloss/seed-0"


@pytest.fixture
def slow(finished):
    """A copy whose data are prepared."""
    (finished / "config" / "slow.yaml").write_text(STUDY, encoding="utf-8")
    return finished


def expected(project, folder):
    """The bytes that the cell's files must have, from the command alone."""
    study = load_study(project / "config" / "slow.yaml")
    inputs = {
        "data": project / "results/data/digits",
        "partition": project / "results/partitions/digits/alpha-0/partition.json",
    }
    cell = Cell(folder, inputs, study.settings(study.cells[0]).to_json(), every=10_000)
    assert cell.run() == 0
    return {name: cell.results()[name] for name in OUTPUTS}


def found(project):
    return {name: (project / RUN / name).read_bytes() for name in OUTPUTS}


def test_a_second_snakemake_is_refused_and_the_first_is_unharmed(slow, tmp_path):
    first = Snake.start(slow, *SLOW)
    job = first.wait_for_trainer()
    job.suspend()  # so that it lasts
    second = snakemake(slow, *SLOW)
    assert second.returncode != 0
    assert "cannot be locked" in second.stdout + second.stderr
    job.resume()
    assert first.process.wait() == 0, first.said()
    assert found(slow) == expected(slow, tmp_path / "alone")
    assert not strays(slow)


def test_an_orphaned_trainer_leaves_to_that_of_the_next_snakemake(slow, tmp_path):
    """Slower than the new one, and beside half-written files that somebody else left."""
    first = Snake.start(slow, *SLOW)
    orphan = first.wait_for_trainer()
    orphan.suspend()
    first.kill(with_jobs=False)
    run = slow / RUN
    run.mkdir(parents=True, exist_ok=True)
    (run / "metrics.csv").touch()
    (run / "final.safetensors").write_bytes(b"half")
    (run / ".average.safetensors.123.tmp").write_bytes(b"half")

    unlock(slow, by_command=False)
    second = Snake.start(slow, *SLOW, name="second.txt")
    newer = second.wait_for_trainer()
    newer.suspend()
    orphan.resume()
    psutil.wait_procs([orphan])
    assert not [*run.glob("[!.]*")], "it left without results"
    newer.resume()
    assert second.process.wait() == 0, second.said()
    assert found(slow) == expected(slow, tmp_path / "alone")
    assert not strays(slow)
    assert planned(slow, *SLOW) == []


def test_a_cell_that_ends_after_snakemake_was_killed_is_not_trained_again(slow):
    """Its files are whole, if marked as incomplete; on record are an earlier run's settings."""
    build(slow, *SLOW, "--config", "training={rounds: 3, last: 1}")
    first = Snake.start(slow, *SLOW)
    orphan = first.wait_for_trainer()
    first.kill(with_jobs=False)
    psutil.wait_procs([orphan])
    unlock(slow, by_command=False)
    assert planned(slow, *SLOW) == []
    assert not strays(slow)


def test_of_a_job_killed_after_its_results_no_checkpoint_stays(slow):
    """Such a run is whole, so that no later job takes it up and removes them."""
    first = Snake.start(slow, *SLOW)
    orphan = first.wait_for_trainer()
    first.kill(with_jobs=False)
    psutil.wait_procs([orphan])
    checkpoints = slow / RUN.replace("runs", "checkpoints")
    checkpoints.mkdir(parents=True)
    (checkpoints / "round-0000400.safetensors").write_bytes(b"a checkpoint")
    checkpoints.with_name("seed-0.owner").write_text(f"{orphan.pid} on this node")
    unlock(slow, by_command=False)
    assert planned(slow, *SLOW) == []
    assert not strays(slow)

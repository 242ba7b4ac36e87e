"""A real SLURM of one node with pretend GPUs, for tests: as root, without systemd.

    python tests/slurm/cluster.py install
    python tests/slurm/cluster.py up [--accounting]
    python tests/slurm/cluster.py down

One for each machine: the SLURM commands look for their configuration in /etc/slurm, so `up` puts a
link there, and refuses where a configuration that is not this script's is at hand.
"""

import argparse
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PACKAGES = ("slurm-wlm", "munge", "slurmdbd", "mariadb-server")
PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd", "mariadb-install-db")
FOLDER = Path("/tmp/fedgloss-slurm")  # short: sockets lie in it
LINK = Path("/etc/slurm/slurm.conf")
CONFIG = FOLDER / "slurm.conf"
GPUS = 8
CPUS = 8  # more than the machine may have: jobs spend much of their time starting up

DAEMONS = ("mariadbd", "munged", "slurmdbd", "slurmctld", "slurmd")
DATABASE = ("slurm_acct_db", "slurm", secrets.token_hex(8))  # name, user, password of this run


def missing() -> list[str]:
    """The programs that this script needs and the machine does not have."""
    return [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]


def install() -> None:
    """Install Debian's packages; nothing of them is started."""
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        for command in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
            subprocess.run(
                ["apt-get", "-qq", *command],
                check=True,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
                stdout=sys.stderr,
            )
    finally:
        if ours:
            policy.unlink()


def foreign() -> str | None:
    """The configuration of a SLURM that is not this script's, which must be left alone."""
    if LINK.is_symlink() and LINK.readlink() == CONFIG:
        return None
    return str(LINK) if LINK.exists() or LINK.is_symlink() else None


def up(accounting: bool) -> None:
    """Start every daemon, and wait until the node takes jobs."""
    if foreign():
        raise RuntimeError(f"{foreign()} belongs to another SLURM")
    down()
    for name in ("state", "spool", "log"):
        (FOLDER / name).mkdir(parents=True)
    FOLDER.chmod(0o755)
    key = FOLDER / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    for gpu in range(GPUS):
        os.mknod(FOLDER / f"gpu{gpu}", 0o666 | 0o020000, os.makedev(1, 3))
    _configure(accounting)
    LINK.parent.mkdir(exist_ok=True)
    LINK.symlink_to(CONFIG)
    for name in DAEMONS:
        if accounting or name not in ("mariadbd", "slurmdbd"):
            start(name)
    _wait(lambda: state() == "idle", "the node to take jobs")


def down() -> None:
    """Stop every daemon and remove every trace; no error if there is none."""
    for name in reversed(DAEMONS):
        stop(name)
    if foreign() is None:
        LINK.unlink(missing_ok=True)
    shutil.rmtree(FOLDER, ignore_errors=True)


def start(name: str) -> None:
    """Start one daemon, and wait until it answers."""
    log = FOLDER / "log" / f"{name}.log"
    pid = _pid_file(name)
    if name == "mariadbd":
        _make_database()
    command = {
        "munged": [
            "munged",
            "--force",
            f"--key-file={FOLDER / 'munge.key'}",
            f"--socket={FOLDER / 'munge.socket'}",
            f"--pid-file={pid}",
            f"--log-file={log}",
            f"--seed-file={FOLDER / 'munge.seed'}",
        ],
        "mariadbd": [
            "mariadbd",
            "--no-defaults",
            "--user=root",
            f"--datadir={FOLDER / 'database'}",
            f"--socket={FOLDER / 'database.socket'}",
            f"--pid-file={pid}",
            f"--log-error={log}",
            f"--init-file={FOLDER / 'database.sql'}",
            f"--port={_port('mariadbd')}",
            "--bind-address=127.0.0.1",
            "--innodb-buffer-pool-size=64M",
        ],
        "slurmdbd": ["slurmdbd"],
        "slurmctld": ["slurmctld", "-f", str(CONFIG)],
        "slurmd": ["slurmd", "-f", str(CONFIG), "-N", socket.gethostname()],
    }[name]
    with open(log, "ab") as output:
        subprocess.Popen(  # all but mariadbd put themselves into the background
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, "PATH": _path(), "SLURM_CONF": str(CONFIG)},
        )
    answers = {
        "munged": lambda: (FOLDER / "munge.socket").exists(),
        "mariadbd": lambda: _listens(_port("mariadbd")),
        "slurmdbd": lambda: _says("sacctmgr", "-n", "show", "stats"),
        "slurmctld": lambda: _says("scontrol", "ping"),
        "slurmd": lambda: _listens(_port("slurmd")),
    }
    _wait(answers[name], f"{name} to answer (its log: {log})")


def stop(name: str, number: signal.Signals = signal.SIGTERM) -> None:
    """Stop one daemon, and wait until it is gone; no error if it does not run."""
    pid = running(name)
    if pid is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    try:
        _wait(lambda: not _alive(pid), f"{name} to end")
    except TimeoutError:
        os.kill(pid, signal.SIGKILL)
        _wait(lambda: not _alive(pid), f"{name} to be killed")
    _pid_file(name).unlink(missing_ok=True)


def running(name: str) -> int | None:
    """The process of a daemon, or None."""
    try:
        pid = int(_pid_file(name).read_text())
    except (OSError, ValueError):
        return None
    return pid if _alive(pid) else None


def state() -> str:
    """The node's state as sinfo says it: idle, mixed, down, ... or nothing if none answers."""
    shown = subprocess.run(["sinfo", "-h", "-N", "-o", "%T"], capture_output=True, text=True)
    return shown.stdout.split("\n")[0].strip()


def scontrol(*arguments: str) -> None:
    """Run scontrol; it must succeed."""
    subprocess.run(["scontrol", *arguments], check=True, capture_output=True, text=True)


def _configure(accounting: bool) -> None:
    host = socket.gethostname()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    storage = (
        f"""\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=localhost
AccountingStoragePort={_port("slurmdbd")}
AccountingStoragePass={FOLDER}/munge.socket
"""
        if accounting
        else "AccountingStorageType=accounting_storage/none\n"
    )
    CONFIG.write_text(f"""\
ClusterName=fedgloss
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={_port("slurmctld")}
SlurmdPort={_port("slurmd")}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that starts again waits for its old credential to expire: two minutes, if not said here.
AuthInfo=socket={FOLDER}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={FOLDER}/state
SlurmdSpoolDir={FOLDER}/spool
SlurmctldPidFile={_pid_file("slurmctld")}
SlurmdPidFile={_pid_file("slurmd")}
SlurmctldLogFile={FOLDER}/log/slurmctld.log
SlurmdLogFile={FOLDER}/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=500
JobAcctGatherType=jobacct_gather/linux
# squeue shows ended jobs for so long; without accounting there is no other way to ask.
MinJobAge=3600
KillWait=2
SlurmdTimeout=5
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=2
SlurmdParameters=config_overrides
GresTypes=gpu
{storage}\
NodeName={host} NodeAddr=127.0.0.1 CPUs={CPUS} RealMemory={pages * 9 // 10 // 2**20} Gres=gpu:{GPUS}
PartitionName=main Nodes={host} Default=YES State=UP PriorityTier=1
PartitionName=closed Nodes={host} State=DRAIN PriorityTier=1
PartitionName=urgent Nodes={host} State=UP PriorityTier=10
""")
    (FOLDER / "gres.conf").write_text(f"Name=gpu File={FOLDER}/gpu[0-{GPUS - 1}]\n")
    (FOLDER / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
    database, user, password = DATABASE
    slurmdbd = FOLDER / "slurmdbd.conf"
    slurmdbd.touch(0o600)
    slurmdbd.write_text(f"""\
DbdHost=localhost
DbdPort={_port("slurmdbd")}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={FOLDER}/munge.socket
PidFile={_pid_file("slurmdbd")}
LogFile={FOLDER}/log/slurmdbd.log
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={_port("mariadbd")}
StorageLoc={database}
StorageUser={user}
StoragePass={password}
""")
    (FOLDER / "database.sql").write_text(
        f"CREATE DATABASE IF NOT EXISTS {database};\n"
        f"CREATE USER IF NOT EXISTS {user}@'127.0.0.1' IDENTIFIED BY '{password}';\n"
        f"GRANT ALL ON {database}.* TO {user}@'127.0.0.1';\n"
    )


def _make_database() -> None:
    if (FOLDER / "database").exists():
        return
    subprocess.run(
        [
            "mariadb-install-db",
            "--no-defaults",
            "--user=root",
            f"--datadir={FOLDER / 'database'}",
            "--skip-test-db",
        ],
        check=True,
        capture_output=True,
        env={**os.environ, "PATH": _path()},
    )


def _port(name: str) -> int:
    """Each daemon's port: fixed, and not SLURM's own."""
    return 26810 + DAEMONS.index(name)


def _pid_file(name: str) -> Path:
    return FOLDER / f"{name}.pid"


def _path() -> str:
    """Debian's daemons are in folders that not every PATH has."""
    return f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin"


def _alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent does not."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _listens(port: int) -> bool:
    with socket.socket() as connection:
        return connection.connect_ex(("127.0.0.1", port)) == 0


def _says(*command: str) -> bool:
    shown = subprocess.run(command, capture_output=True, text=True)
    return shown.returncode == 0 and "DOWN" not in shown.stdout


def _wait(ready: Callable[[], bool], what: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.05)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("action", choices=["install", "up", "down"])
    parser.add_argument("--accounting", action="store_true", help="with slurmdbd and MariaDB")
    options = parser.parse_args()
    if options.action == "up":
        up(options.accounting)
    else:
        {"install": install, "down": down}[options.action]()

"""A real Slurm in a folder of its own, of Debian's packages, as plain processes."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import adapters
from tests.ports import free_port

PROGRAMS = (
    "munged",
    "mariadbd",
    "mariadb-install-db",
    "slurmdbd",
    "slurmctld",
    "slurmd",
    "sbatch",
    "sacct",
)
SLURM_CONF = """
ClusterName=testbed
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={slurmctld}
SlurmdPort={slurmd}
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin={task_plugin}
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=64
FirstJobId={first_job}
EpilogSlurmctld={folder}/epilog
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=100000,sched_interval=2,bf_interval=1
MpiDefault=none
ReturnToService=2
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={slurmdbd}
AccountingStorageUser=root
AccountingStoragePass={folder}/munge.socket
AccountingStoreFlags=job_comment
GresTypes=gpu
AccountingStorageTRES=gres/gpu,gres/gpu:a100
NodeName=node NodeHostname=localhost NodeAddr=127.0.0.1 CPUs=64 RealMemory=8192 State=UNKNOWN {properties}
PartitionName=short Nodes=node Default=YES MaxTime=60 DefaultTime=60 State=UP
PartitionName=long Nodes=node MaxTime=UNLIMITED State=UP
"""
CGROUP_CONF = "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nConstrainRAMSpace=yes\n"
MEMORY_CGROUP = Path("/sys/fs/cgroup/memory")
REQUEUE = Path(adapters.__path__[0]) / "slurm" / "gridcast_requeue.sh"
GRES_CONF = "Name=gpu Type=a100 File={folder}/gpu[0-3]\n"
PROPERTIES = "Gres=gpu:a100:4 Feature=intel,ib"
SLURMDBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={slurmdbd}
SlurmUser=root
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={mariadb}
StorageUser=root
StorageLoc=slurm_acct_db
"""

NO_SCRIPT = "function slurm_job_submit() return slurm.SUCCESS end\nfunction slurm_job_modify() return slurm.SUCCESS end\n"


def missing() -> str:
    """Why no Slurm can be started here, empty where one can."""
    if os.geteuid() != 0:
        return "a Slurm of its own is started by root only"
    absent = [name for name in PROGRAMS if not shutil.which(name)]
    lua = list(Path("/usr/lib").glob("*/slurm-wlm/job_submit_lua.so"))
    absent += [] if lua else ["job_submit_lua.so"]
    return (
        f"no {', '.join(absent)} here: apt-get install slurm-wlm munge slurmdbd mariadb-server"
        if absent
        else ""
    )


def limits_memory() -> bool:
    """Whether a job here is killed for its memory: by a memory cgroup (version 1) that we may make."""
    return os.access(MEMORY_CGROUP, os.W_OK) and (MEMORY_CGROUP / "memory.limit_in_bytes").exists()


@dataclass(frozen=True)
class Slurm:
    """A running cluster: its folder, and the environment in which Slurm's own programs find it."""

    folder: Path
    environment: dict[str, str]

    @property
    def script(self) -> Path:
        """Where its job_submit.lua lies."""
        return self.folder / "job_submit.lua"

    def run(self, *command: str) -> str:
        """What a program of Slurm prints; an error where it fails."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=1200
        )
        assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout.strip()

    def submit(self, name: str, user: str, script: str, *options: str) -> str:
        """Submit a job of ``user``; its number."""
        always = (
            "--parsable",
            f"--uid={user}",
            "--chdir=/",
            "--output=/dev/null",
            f"--job-name={name}",
        )
        return self.run("sbatch", *always, *options, f"--wrap={script}")

    def field(self, job: str, name: str) -> str:
        """A field of a job as the controller has it, empty where it has none."""
        found = self.run("scontrol", "show", "job", job, "--oneliner")
        words = [word for word in found.split(" ") if word.startswith(f"{name}=")]
        return words[0].partition("=")[2] if words else ""

    def comment(self, job: str, name: str = "Comment") -> str:
        """A job's comment, which may have blanks."""
        lines = [line.strip() for line in self.run("scontrol", "show", "job", job).splitlines()]
        return next((line.partition("=")[2] for line in lines if line.startswith(f"{name}=")), "")

    def wait(self, holds: Callable[[], object], what: str, patience: float = 300) -> None:
        """Wait until something is so."""
        _wait(holds, what, self.folder, patience)

    def idle(self) -> bool:
        """Whether no job waits or runs."""
        return not self.run("squeue", "--noheader", "--format=%i")

    def wait_for(self, jobs: Iterable[str]) -> None:
        """Wait for the end of jobs, whatever others wait or run."""
        own = set(jobs)
        waiting = ("squeue", "--noheader", "--format=%F")
        self.wait(lambda: not own & set(self.run(*waiting).split()), "the end of the jobs")


@contextmanager
def slurm_cluster() -> Iterator[Slurm]:
    """A Slurm with one node of 64 CPUs, two partitions and JobSubmitPlugins=lua."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="gridcast-slurm-")))
        # A job of any user runs here, and munge looks for its socket.
        folder.chmod(0o755)
        ports = {name: free_port() for name in ("slurmctld", "slurmd", "slurmdbd", "mariadb")}
        # Slurm asks only that the devices' files exist.
        (folder / "gres.conf").write_text(GRES_CONF.format(folder=folder))
        for number in range(4):
            (folder / f"gpu{number}").touch()
        (folder / "cgroup.conf").write_text(CGROUP_CONF)
        epilog = folder / "epilog"
        epilog.write_text(f"#!/bin/sh\nexport SLURM_CONF={folder}/slurm.conf\nexec {REQUEUE}\n")
        epilog.chmod(0o755)
        chosen = {
            "properties": PROPERTIES,
            "task_plugin": "task/cgroup" if limits_memory() else "task/none",
            # The cgroups of another Slurm on this machine have the names of its jobs.
            "first_job": 1000 * (1 + os.getpid() % 50_000),
        }
        for name, text in (("slurm.conf", SLURM_CONF), ("slurmdbd.conf", SLURMDBD_CONF)):
            path = folder / name
            path.write_text(
                text.format(folder=folder, **chosen, **ports)
                + ("JobSubmitPlugins=lua\n" if name == "slurm.conf" else "")
            )
            path.chmod(0o600 if name == "slurmdbd.conf" else 0o644)
        for name in ("state", "spool", "mariadb"):
            (folder / name).mkdir()
        slurm = Slurm(folder, {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")})
        slurm.script.write_text(
            "function slurm_job_submit() return slurm.SUCCESS end\nfunction slurm_job_modify() return slurm.SUCCESS end\n"
        )
        _start_all(slurm, ports, stack)
        yield slurm


def _start_all(slurm: Slurm, ports: dict[str, int], stack: ExitStack) -> None:
    folder = slurm.folder
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    places = {
        "key-file": "key",
        "socket": "socket",
        "pid-file": "pid",
        "log-file": "log",
        "seed-file": "seed",
    }
    _start(
        slurm,
        stack,
        "munged",
        "--foreground",
        "--force",
        *(f"--{option}={folder}/munge.{end}" for option, end in places.items()),
    )
    data, quiet = f"--datadir={folder}/mariadb", ("--no-defaults", "--user=root")
    install = (
        "mariadb-install-db",
        *quiet,
        data,
        "--skip-test-db",
        "--auth-root-authentication-method=normal",
    )
    slurm.run(*install)
    address = (
        f"--socket={folder}/mariadb.socket",
        "--bind-address=127.0.0.1",
        f"--port={ports['mariadb']}",
    )
    # Nothing of it outlives the test, so nothing need reach the disk.
    fast = (
        "--innodb-flush-log-at-trx-commit=0",
        "--innodb-buffer-pool-size=64M",
        "--innodb-flush-method=nosync",
        "--skip-log-bin",
    )
    _start(
        slurm, stack, "mariadbd", *quiet, data, *address, f"--pid-file={folder}/mariadb.pid", *fast
    )
    slurm.wait(
        lambda: _answers(ports["mariadb"]) and (folder / "munge.socket").exists(),
        "MariaDB and munge",
    )
    _start(slurm, stack, "slurmdbd", "-D")
    slurm.wait(lambda: _answers(ports["slurmdbd"]), "slurmdbd")
    slurm.run("sacctmgr", "--immediate", "add", "cluster", "testbed")
    _start(slurm, stack, "slurmctld", "-D", "-i")
    _start(slurm, stack, "slurmd", "-D", "-N", "node")
    slurm.wait(lambda: "idle" in _said(slurm, "sinfo", "--noheader", "--format=%T"), "the node")


def _start(slurm: Slurm, stack: ExitStack, *command: str) -> None:
    """Start a server, and stop it, and wait for its end, when the stack is closed."""
    output = stack.enter_context((slurm.folder / f"{command[0]}.out").open("wb"))
    process = subprocess.Popen(
        command, env=slurm.environment, stdout=output, stderr=output, start_new_session=True
    )

    def stop() -> None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(120)
        process.kill()
        process.wait()

    stack.callback(stop)


def _said(slurm: Slurm, *command: str) -> str:
    """What a program says, empty where its server does not answer yet."""
    return subprocess.run(
        command, env=slurm.environment, capture_output=True, text=True, timeout=120
    ).stdout


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait(holds: Callable[[], object], what: str, folder: Path, patience: float) -> None:
    deadline = time.monotonic() + patience
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not come; the logs are in {folder}"
        time.sleep(0.1)

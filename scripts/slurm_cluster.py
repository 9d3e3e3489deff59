"""A Slurm cluster of one node in a directory of its own: no systemd, no cgroups, nothing in /etc.

eval "$(python scripts/slurm_cluster.py start DIR --cpus 4)"
python scripts/slurm_cluster.py status DIR
python scripts/slurm_cluster.py stop DIR

For trying sweeps before they cost anything. It needs root and Debian's or Ubuntu's `slurm-wlm` and
`munge`, which `start --install` installs. `start` prints the environment that makes `sbatch`,
`squeue` and the launchers use this cluster. The node claims as many CPUs as it is told, and two
GPUs that do not exist. A job in the partition `high` requeues jobs of the default one, `low`, when
it needs their CPUs. There is no accounting, so a small `sacct` asks the controller.

Exit status: 0 if all went well (`status`: it is up), 1 for an error (`status`: it is not).
"""

import argparse
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

PACKAGES = ("slurm-wlm", "munge")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "sinfo", "scancel")
DAEMONS = ("slurmd", "slurmctld", "munged")
"""In the order in which they are stopped."""
SBIN = "/usr/local/sbin:/usr/sbin:/sbin"

SLURM_CONF = """\
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket,cred_expire=5
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
MinJobAge=86400
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={megabytes} Gres=gpu:2 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES PriorityTier=1 PreemptMode=REQUEUE
PartitionName=high Nodes={host} PriorityTier=10 PreemptMode=OFF
"""
CGROUP_CONF = "CgroupPlugin=cgroup/v1\n"  # loaded, and asked for nothing
GRES_CONF = "AutoDetect=off\nName=gpu File=/dev/null\nName=gpu File=/dev/zero\n"

SACCT = """\
#!/bin/sh
# The states of all jobs, as `sacct -o JobID,State,NodeList --parsable2` has them.
echo 'JobID|State|NodeList'
scontrol --oneliner show jobs | awk '/^JobId=/ {
    split("", job)
    for (i = 1; i <= NF; i++) {
        equals = index($i, "="); key = substr($i, 1, equals - 1)
        if (!(key in job)) job[key] = substr($i, equals + 1)
    }
    id = job["JobId"]; task = job["ArrayTaskId"]
    if (task != "") id = job["ArrayJobId"] "_" (task ~ /^[0-9]+$/ ? task : "[" task "]")
    print id "|" job["JobState"] "|" job["NodeList"]
}'
"""


class ClusterError(RuntimeError):
    """Why there is no cluster, and what to do about it."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns its exit status."""
    options = _parser().parse_args(arguments)
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}:{SBIN}"
    directory = options.directory.resolve()
    try:
        if options.command == "start":
            if options.install:
                install()
            start(directory, options.cpus)
            print(environment(directory))
        elif options.command == "stop":
            stop(directory)
        else:
            return status(directory)
    except ClusterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def install() -> None:
    """Installs the Debian packages; what they say goes to standard error."""
    _need_root()
    if not shutil.which("apt-get"):
        raise ClusterError("--install needs apt-get: on Debian or Ubuntu only")
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    get = ["apt-get", "install", "-y", "--no-install-recommends", *PACKAGES]
    for command in (["apt-get", "update"], get):
        if subprocess.run(command, stdout=sys.stderr, env=quiet).returncode:
            raise ClusterError(f"`{shlex.join(command)}` failed")


def start(directory: Path, cpus: int) -> None:
    """Starts the daemons, if they are not up, and waits until the node takes jobs."""
    _need_root()
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        raise ClusterError(
            f"no {', '.join(missing)} here; add --install, or: "
            f"apt-get install --no-install-recommends {' '.join(PACKAGES)}"
        )
    if len(str(directory / "munge.socket")) > 100:
        raise ClusterError(f"{directory}: too long a path for a socket; choose a shorter one")
    if all(_pid(directory, daemon) for daemon in DAEMONS):
        return
    stop(directory)
    _write_files(directory, cpus)
    options = {"key-file": "munge.key", "log-file": "munged.log", "seed-file": "munge.seed"}
    options |= {"socket": "munge.socket", "pid-file": "munged.pid"}
    _call(directory, "munged", "--force", *(f"--{k}={directory / v}" for k, v in options.items()))
    _call(directory, "slurmctld")
    _call(directory, "slurmd")
    if not _within(30, lambda: _node_state(directory) in ("idle", "mixed", "allocated")):
        logs = _logs(directory)
        stop(directory)
        raise ClusterError(f"the node takes no jobs after 30 s\n{logs}")


def stop(directory: Path) -> None:
    """Cancels all jobs and ends the daemons; quietly, if there are none."""
    if _pid(directory, "slurmctld") and _pid(directory, "slurmd"):
        if jobs := _slurm(directory, "squeue", "--noheader", "--format=%F").split():
            _slurm(directory, "scancel", *jobs)
        _within(30, lambda: not _slurm(directory, "squeue", "--noheader"))
    for daemon in DAEMONS:
        if pid := _pid(directory, daemon):
            _end(pid, daemon)


def status(directory: Path) -> int:
    """Prints the daemons, the node and the jobs; returns 0 if the cluster is up."""
    pids = {daemon: _pid(directory, daemon) for daemon in reversed(DAEMONS)}
    for name, pid in pids.items():
        print(f"{name}: process {pid}" if pid else f"{name}: down")
    if not all(pids.values()):
        return 1
    print(_slurm(directory, "sinfo"), _slurm(directory, "squeue"), sep="\n")
    return 0


def environment(directory: Path) -> str:
    """Lines for a shell to evaluate."""
    return (
        f"export SLURM_CONF={shlex.quote(str(directory / 'slurm.conf'))}\n"
        f'export PATH={shlex.quote(str(directory / "bin"))}:"$PATH"'
    )


def _need_root() -> None:
    if os.geteuid() != 0:
        raise ClusterError("it needs root, for its daemons start jobs as their users")


def _write_files(directory: Path, cpus: int) -> None:
    """Writes configuration, key and shim. A key and the jobs' state that are there stay."""
    for name in ("bin", "state", "spool"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    ports = _free_ports()
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    conf = SLURM_CONF.format(
        directory=directory,
        host=socket.gethostname().split(".")[0],
        controller_port=ports[0],
        node_port=ports[1],
        cpus=cpus,
        megabytes=pages * page // 2**20,
    )
    (directory / "slurm.conf").write_text(conf)
    (directory / "cgroup.conf").write_text(CGROUP_CONF)
    (directory / "gres.conf").write_text(GRES_CONF)
    (directory / "bin" / "sacct").write_text(SACCT)
    (directory / "bin" / "sacct").chmod(0o755)
    key = directory / "munge.key"
    if not key.exists():
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def _call(directory: Path, *command: str) -> None:
    """Starts a daemon, which goes into the background by itself."""
    done = subprocess.run(
        command,
        env=_environment(directory),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        logs = _logs(directory)
        stop(directory)
        raise ClusterError(f"{command[0]} did not start: {done.stderr.strip()}\n{logs}")


def _slurm(directory: Path, *command: str) -> str:
    """What a Slurm command prints; nothing if it fails."""
    done = subprocess.run(command, env=_environment(directory), capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else ""


def _environment(directory: Path) -> dict[str, str]:
    return os.environ | {"SLURM_CONF": str(directory / "slurm.conf")}


def _node_state(directory: Path) -> str:
    return _slurm(directory, "sinfo", "--noheader", "--partition=low", "--format=%T")


def _pid(directory: Path, daemon: str) -> int | None:
    """The daemon's process, if it runs."""
    try:
        pid = int((directory / f"{daemon}.pid").read_text())
    except (OSError, ValueError):
        return None
    return pid if _runs(pid, daemon) else None


def _runs(pid: int, daemon: str) -> bool:
    """Whether the process is that daemon, and not another with its number, or a zombie."""
    try:
        name, state = Path(f"/proc/{pid}/stat").read_text().split()[1:3]
    except (OSError, ValueError):
        return False
    return name == f"({daemon})" and state != "Z"


def _end(pid: int, daemon: str) -> None:
    """Ends a daemon, with force if it takes longer than 10 s."""
    os.kill(pid, signal.SIGTERM)
    if not _within(10, lambda: not _runs(pid, daemon)):
        os.kill(pid, signal.SIGKILL)


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Waits until the condition holds; False if it does not in that time."""
    end = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return holds


def _logs(directory: Path) -> str:
    """The last lines of each daemon's log."""
    parts = []
    for path in sorted(directory.glob("*.log")):
        last = path.read_text(errors="replace").splitlines()[-5:]
        parts.append("\n  ".join([f"{path}:", *last]))
    return "\n".join(parts)


def _parser() -> argparse.ArgumentParser:
    summary = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(description=summary)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    helps = {
        "start": "start it, and print its environment for a shell to evaluate",
        "stop": "cancel its jobs and stop it",
        "status": "show its daemons, node and jobs",
    }
    for name, text in helps.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("directory", metavar="DIR", type=Path, help="all of its files")
        if name == "start":
            cpus = os.cpu_count() or 1
            command.add_argument("--cpus", type=int, default=cpus, help="CPUs the node claims")
            command.add_argument("--install", action="store_true", help="install its packages")
    return parser


if __name__ == "__main__":
    sys.exit(main())

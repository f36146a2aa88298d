"""A Slurm cluster of two virtual nodes on this machine, a faked GPU each: for root, with Debian's munge and Slurm."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

NODES = ("node1", "node2")
FAKED = ("/dev/null", "/dev/zero")  # Slurm asks of a GPU only that its device file exists

SLURM_CONF = """
ClusterName=equipose
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
GresTypes=gpu
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=4000 Gres=gpu:1
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=4000 Gres=gpu:1
PartitionName=cpu Nodes=node[1-2] Default=YES
PartitionName=gpu Nodes=node[1-2]
"""


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """The environment with which Slurm's commands reach a cluster that lives, like its logs, in `folder`."""
    for name in ("state", *NODES):
        (folder / name).mkdir()
    with ExitStack() as bound:  # three ports that nobody uses
        sockets = [bound.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = [each.getsockname()[1] for each in sockets]
    host = socket.gethostname().split(".")[0]
    (folder / "slurm.conf").write_text(SLURM_CONF.format(host=host, ports=ports, folder=folder))
    gpus = [f"NodeName={node} Name=gpu File={file}\n" for node, file in zip(NODES, FAKED, strict=True)]
    (folder / "gres.conf").write_text("".join(gpus))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    munge = {"socket": "munge.socket", "key-file": key.name, "pid-file": "munge.pid", "seed-file": "munge.seed"}
    daemons = [
        ["munged", "--foreground", "--force", *(f"--{option}={folder / name}" for option, name in munge.items())],
        ["slurmctld", "-D"],
        *(["slurmd", "-D", "-N", node] for node in NODES),
    ]
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
    with ExitStack() as running:
        for number, command in enumerate(daemons):
            running.enter_context(_daemon(command, folder / f"{number}-{command[0]}.log", environment))
            time.sleep(0.5)
        running.callback(_cancel_all, environment)
        _wait_until(
            "two idle nodes", lambda: ask(environment, "sinfo", "-hNo", "%N %T", "-p", "gpu").count(" idle") == 2
        )
        yield environment


def ask(environment: dict[str, str], *command: str) -> str:
    """What a Slurm command prints."""
    return subprocess.run(command, env=environment, capture_output=True, text=True).stdout


def jobs(environment: dict[str, str]) -> list[list[str]]:
    """Number, comment, state, node, GPUs, minutes asked for and seconds taken of all jobs, in order."""
    listed = ask(
        environment,
        "squeue",
        "--states=all",
        "-hSi",
        "-O",
        "JobID:|,Comment:|,State:|,NodeList:|,tres-per-job:|,TimeLimit:|,TimeUsed:|",
    )
    return [line.split("|")[:-1] for line in listed.splitlines()]


@contextmanager
def _daemon(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[None]:
    with open(log, "w") as file, subprocess.Popen(command, env=environment, stdout=file, stderr=file) as process:
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _cancel_all(environment: dict[str, str]) -> None:
    ask(environment, "scancel", "--state=RUNNING")
    ask(environment, "scancel", "--state=PENDING")
    _wait_until("the end of all jobs", lambda: not ask(environment, "squeue", "-h"))


def _wait_until(what: str, holds, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.3)

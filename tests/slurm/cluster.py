"""A Slurm cluster of two virtual nodes on this machine, a faked GPU each: for root, with Debian's munge and Slurm."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
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
MinJobAge=86400
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=4000 Gres=gpu:1
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=4000 Gres=gpu:1
PartitionName=cpu Nodes=node[1-2] Default=YES
PartitionName=gpu Nodes=node[1-2]
PartitionName=urgent Nodes=node[1-2] PriorityTier=10
"""


class Cluster:
    """Its commands, and its daemons, which can be killed and started again; all that it has is in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        names = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munge.pid", "seed-file": "munge.seed"}
        options = [f"--{option}={folder / name}" for option, name in names.items()]
        self.commands = {
            "munged": [
                "munged",
                "--foreground",
                "--force",
                *options,
            ],
            "slurmctld": ["slurmctld", "-D"],
            **{node: ["slurmd", "-D", "-N", node] for node in NODES},
        }
        self.running: dict[str, subprocess.Popen] = {}

    def start(self, daemon: str) -> None:
        with open(self.folder / f"{daemon}.log", "a") as log:
            self.running[daemon] = subprocess.Popen(self.commands[daemon], env=self.environment, stdout=log, stderr=log)
        time.sleep(0.5)

    def kill(self, daemon: str) -> None:
        """kill -9: its jobs go on."""
        self.running[daemon].kill()
        self.running[daemon].wait()

    def stop(self) -> None:
        for process in reversed(self.running.values()):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()

    def ask(self, *command: str) -> str:
        """What a Slurm command prints."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True).stdout

    def jobs(self) -> list[list[str]]:
        """Number, comment, state, node, GPUs, time asked for and taken, and restarts of all jobs, in order."""
        columns = "JobID:|,Comment:|,State:|,NodeList:|,tres-per-job:|,TimeLimit:|,TimeUsed:|,RestartCnt:|,"
        listed = self.ask("squeue", "--states=all", "-hSi", "-O", columns)
        return [line.split("|")[:-1] for line in listed.splitlines()]

    def restore(self) -> None:
        """All daemons run, all nodes are back, no job is left."""
        for daemon, process in self.running.items():
            if process.poll() is not None:
                self.start(daemon)
        self.cancel_all()
        for node in NODES:
            self.ask("scontrol", "update", f"NodeName={node}", "State=RESUME")
        self.wait_for_idle_nodes()

    def wait_for_idle_nodes(self) -> None:
        _wait_until(
            "two idle nodes", lambda: self.ask("sinfo", "-hNo", "%N %T", "-p", "gpu").count(" idle\n") == len(NODES)
        )

    def cancel_all(self) -> None:
        self.ask("scancel", "--state=RUNNING")
        self.ask("scancel", "--state=PENDING")
        _wait_until("the end of all jobs", lambda: not self.ask("squeue", "-h"))


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster that lives, like its logs, in `folder`."""
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
    cluster = Cluster(folder)
    try:
        for daemon in cluster.commands:
            cluster.start(daemon)
        cluster.wait_for_idle_nodes()
        yield cluster
        cluster.cancel_all()
    finally:
        cluster.stop()


def _wait_until(what: str, holds: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.3)

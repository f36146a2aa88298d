"""A signal to stop ends a command and all that it started, and leaves no half-written file."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PARENT = """if True:
    import sys
    from equipose.io import processes
    from equipose.io.processes import exit_after, run_stoppable
    processes.GRACE_SECONDS = 1.0  # for the deaf one
    code, stopped_by = run_stoppable(["bash", "workflow.sh"])
    if stopped_by:
        exit_after(stopped_by, "; the same command continues")
    sys.exit(code)
"""

WORKFLOW = """
trap : TERM                          # waits for its jobs, as Snakemake does
python -c '
import os, signal, time
def save(*_): open("checkpoint", "w").close(); os._exit(1)
signal.signal(signal.SIGTERM, save)
open("saver.pid", "w").write(str(os.getpid()))
time.sleep(60)
' &
saver=$!
(trap "" TERM; echo $BASHPID > deaf.pid; exec sleep 60) > /dev/null 2>&1 &
(trap "" HUP; exec bash -c 'echo $$ > child.pid; sleep 60 & wait') > /dev/null 2>&1 &
echo $$ > workflow.pid
while kill -0 $saver; do sleep 0.05; done 2> /dev/null  # bash may miss the end of a job in a `wait` that a signal cut
exit 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a stand-in for Snakemake and its jobs: one saves its state, and one ignores signals."""
    (tmp_path / "workflow.sh").write_text(WORKFLOW)
    return tmp_path


def heed_interrupts() -> None:
    """A shell that starts `make test &` has its commands ignore SIGINT, nohup SIGHUP, and so would ours."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def start(folder: Path, **options: object) -> subprocess.Popen:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [sys.executable, "-c", PARENT]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | {"PATH": path},
        start_new_session=True,
        text=True,
        **{"preexec_fn": heed_interrupts} | options,
    )


def wait_for_jobs(folder: Path) -> list[int]:
    """Ids of the workflow and its jobs, once all of them are at work."""
    names = ("workflow", "saver", "deaf", "child")
    for _ in range(600):
        files = [folder / f"{name}.pid" for name in names]
        if all(file.exists() and file.read_text().strip() for file in files):
            return [int(file.read_text()) for file in files]
        time.sleep(0.05)
    raise AssertionError(f"only {sorted(path.name for path in folder.iterdir())} after 30 s")


def alive(process: int) -> bool:
    """Whether a process is running. A zombie is not."""
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_command_alone_ends_all_that_it_started(folder: Path, number: signal.Signals) -> None:
    process = start(folder, stderr=subprocess.PIPE)
    jobs = wait_for_jobs(folder)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + number
    assert said.splitlines()[-1] == f"stopped by {number.name}; the same command continues"
    assert "Traceback" not in said
    assert not [job for job in jobs if alive(job)]
    assert (folder / "checkpoint").exists()


def test_a_terminal_that_is_closed_ends_all_of_it(folder: Path) -> None:
    ours, theirs = pty.openpty()

    def take_terminal() -> None:
        import fcntl
        import termios

        fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
        heed_interrupts()

    process = start(folder, stdin=theirs, stdout=theirs, stderr=theirs, preexec_fn=take_terminal)
    os.close(theirs)
    jobs = wait_for_jobs(folder)
    os.close(ours)
    assert process.wait(timeout=120) == 128 + signal.SIGHUP
    assert not [job for job in jobs if alive(job)]
    assert (folder / "checkpoint").exists()


def test_nohup_keeps_a_command_at_work_when_its_terminal_is_closed(folder: Path) -> None:
    process = start(folder, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    jobs = wait_for_jobs(folder)
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None and all(map(alive, jobs))
    process.terminate()
    process.wait(timeout=120)
    assert not [job for job in jobs if alive(job)]


def test_without_a_signal_the_exit_code_is_that_of_the_command(folder: Path) -> None:
    (folder / "workflow.sh").write_text("exit 3")
    assert start(folder).wait(timeout=120) == 3


def test_what_a_signal_interrupts_is_cleaned_up(tmp_path: Path) -> None:
    code = """if True:
        import time
        from pathlib import Path
        from equipose.io.files import whole_file
        from equipose.io.processes import exit_on_signals
        with exit_on_signals(), whole_file(Path("map.mrc")) as partial:
            partial.write_text("half")
            print(flush=True)
            time.sleep(60)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.readline()
    process.terminate()
    _, said = process.communicate(timeout=120)
    assert (process.returncode, said) == (143, "stopped by SIGTERM\n")
    assert list(tmp_path.iterdir()) == []

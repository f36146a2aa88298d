"""Two commands in one folder: the second is told who is at work there, and changes nothing."""

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from test_cli import equipose

from equipose import cli
from equipose.errors import ConfigError
from equipose.io.locks import alone

HOLDER = """if True:
    import sys
    from pathlib import Path
    from equipose.io.locks import alone
    from equipose.io.processes import run_stoppable
    with alone(Path(sys.argv[1]), "") as held:
        run_stoppable(["bash", "-c", "echo $$; exec sleep 60"], inherits=[held])
"""


@pytest.fixture
def holder(tmp_path: Path):
    """A process that holds tmp_path/out/work/reconstruct.lock, and its child's number."""
    lock = tmp_path / "out/work/reconstruct.lock"
    process = subprocess.Popen([sys.executable, "-c", HOLDER, lock], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    yield process, child
    process.kill()
    process.wait()
    with suppress(ProcessLookupError):  # a test has ended it
        os.kill(child, signal.SIGKILL)


def test_a_second_reconstruct_in_a_folder_is_one_message_and_changes_nothing(
    monkeypatch, capsys, simulated_dataset, tmp_path: Path, holder
) -> None:
    process, _ = holder
    out = tmp_path / "out"
    (out / "particles.yaml").write_text("of the first\n")
    monkeypatch.setattr(cli, "FEWEST", 5)
    monkeypatch.setattr(cli, "run_stoppable", lambda *_: pytest.fail("the workflow was started"))
    star = simulated_dataset.folder / "particles.star"
    assert equipose(monkeypatch, "reconstruct", star, "--out", out, "--contrast", "bright") == 2
    said = capsys.readouterr().err
    assert said == (
        f"error: process {process.pid} on {socket.gethostname()}, or one that it started, works in {out} already: wait"
        f" for its end, or stop it; `equipose status {out}` shows how far it is\n"
    )
    assert (out / "particles.yaml").read_text() == "of the first\n"


def test_the_lock_holds_while_a_child_lives_whose_parent_was_killed(tmp_path: Path, holder) -> None:
    process, child = holder
    lock = tmp_path / "out/work/reconstruct.lock"
    process.kill()
    process.wait()
    with (
        pytest.raises(ConfigError, match=rf"^process {process.pid} on .*, or one that it started, is here$"),
        alone(lock, "is here"),
    ):
        pass
    os.kill(child, signal.SIGTERM)
    _wait_until_free(lock)
    with alone(lock, ""):
        assert lock.read_text().startswith(f"process {os.getpid()} on ")


def _wait_until_free(lock: Path) -> None:
    """The child has ended once its end of the lock is closed."""
    subprocess.run(["flock", "--wait", "30", lock, "true"], check=True)

"""Atomic writing: whole files, the old mode, no temporary left, errors that name the file."""

import errno
import os
import signal
import stat
import subprocess
import sys

import pytest

from jca_fast import atomic


@pytest.fixture(params=["anonymous", "named"])
def kind(request, monkeypatch):
    """Both kinds of temporary file: without a name, and with a random one."""
    if request.param == "named":
        monkeypatch.setattr(atomic, "_anonymous", lambda folder: None)
    return request.param


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_replaces_the_file_and_leaves_nothing_else(tmp_path, kind):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic.replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, OSError, RuntimeError, KeyboardInterrupt])
def test_error_keeps_the_old_file(tmp_path, kind, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half():
        with atomic.replacing(path) as temporary:
            temporary.write_text("half")
            raise error("no")

    with pytest.raises(OSError if error is RuntimeError else error, match="no"):
        write_half()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_new_file_has_the_mode_of_the_umask(tmp_path, kind, umask, mode):
    before = os.umask(umask)
    try:
        atomic.write_text(tmp_path / "a.txt", "new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode


def test_replaced_file_keeps_its_mode(tmp_path, kind):
    path = tmp_path / "a.txt"
    path.write_text("old")
    path.chmod(0o640)
    atomic.write_text(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_planted_links_are_not_written_through(tmp_path, kind):
    """Neither a link at the old predictable temporary name nor one at the target itself."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path = tmp_path / "a.txt"
    path.symlink_to(victim)
    (tmp_path / f".a.txt.{os.getpid()}.tmp").symlink_to(victim)
    atomic.write_text(path, "new")
    assert victim.read_text() == "mine"
    assert path.read_text() == "new"
    assert not path.is_symlink()


def test_existing_temporary_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "_anonymous", lambda folder: None)
    monkeypatch.setattr(os, "urandom", lambda size: b"guessed")
    (tmp_path / "victim").write_text("mine")
    (tmp_path / f".{b'guessed'.hex()}.tmp").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError, match=r"a\.txt: cannot be written: File exists"):
        atomic.write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "victim").read_text() == "mine"


def test_syncs_the_file_and_then_its_folder(tmp_path, kind, monkeypatch):
    synced = []

    def fsync(descriptor):
        synced.append(stat.S_ISDIR(os.fstat(descriptor).st_mode))

    monkeypatch.setattr(os, "fsync", fsync)
    atomic.write_text(tmp_path / "a.txt", "new")
    assert synced == [False, True]
    with atomic.replacing(tmp_path / "a.txt", durable=False) as temporary:
        temporary.write_text("newer")
    assert len(synced) == 2


def test_missing_folder_and_special_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone: no such folder to write a\.txt into"):
        atomic.write_text(tmp_path / "gone" / "a.txt", "new")
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(OSError, match="not a regular file"):
            atomic.write_text(tmp_path / name, "new")


def test_reason_behind_another_error_is_told(tmp_path, kind):
    """torch.save raises RuntimeError without the reason; the OSError behind it has the reason."""

    def fail():
        with atomic.replacing(tmp_path / "a.pt"):
            try:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                raise RuntimeError("enforce fail\nat a line") from None

    with pytest.raises(OSError, match="No space") as caught:
        fail()
    assert str(caught.value) == f"{tmp_path / 'a.pt'}: cannot be written: No space left on device"
    assert caught.value.errno == errno.ENOSPC


LIMITED = """
import resource, sys, torch
from jca_fast import atomic
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
with atomic.replacing(sys.argv[1]) as temporary, temporary.open("wb") as file:
    torch.save({"a": torch.ones(100_000)}, file)
"""


def test_torch_save_beyond_a_limit_names_file_and_reason(tmp_path):
    path = tmp_path / "a.pt"
    path.write_text("old")
    run = subprocess.run(
        [sys.executable, "-B", "-c", LIMITED, path], capture_output=True, text=True
    )
    assert run.stderr.splitlines()[-1] == f"OSError: {path}: cannot be written: File too large"
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.pt"]


KILLED = """
import sys, time
from jca_fast import atomic
with atomic.replacing(sys.argv[1]) as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_killed_writer_leaves_nothing(tmp_path):
    try:
        os.close(os.open(tmp_path, os.O_TMPFILE | os.O_RDWR))
    except (OSError, AttributeError):
        pytest.skip("the file system has no files without a name")
    path = tmp_path / "a.txt"
    path.write_text("old")
    with subprocess.Popen([sys.executable, "-c", KILLED, path], stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"writing\n"
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_new_file_gets_its_name_in_one_step(tmp_path, monkeypatch):
    """A kill between naming and renaming would leave a temporary file that nobody deletes."""
    monkeypatch.setattr(os, "replace", lambda *args, **kwargs: pytest.fail("named twice"))
    atomic.write_text(tmp_path / "a.txt", "new")
    assert names(tmp_path) == ["a.txt"]
    (tmp_path / "b.txt").symlink_to(tmp_path / "nowhere")
    monkeypatch.undo()
    atomic.write_text(tmp_path / "b.txt", "new")
    assert not (tmp_path / "b.txt").is_symlink()
    assert names(tmp_path) == ["a.txt", "b.txt"]


def test_a_scratch_folder_deletes_those_of_killed_runs_only(tmp_path):
    left = tmp_path / f"{atomic.SCRATCH}left"
    left.mkdir()
    (left / "half").write_text("half")
    with atomic.scratch(tmp_path) as first, atomic.scratch(tmp_path) as second:
        assert first.is_dir()
        assert second.is_dir()
        assert not left.exists()
    assert names(tmp_path) == []

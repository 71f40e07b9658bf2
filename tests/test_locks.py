"""One writer at a time: the system's lock on local disks, a lease on mounted ones."""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections import namedtuple
from pathlib import Path
from typing import Any

import psutil
import pytest

from cifarlib import locks

Mount = namedtuple("Mount", "mountpoint fstype")


def mounts(monkeypatch: pytest.MonkeyPatch, kinds: dict[Path, str]) -> None:
    """Have the system tell of these mounts, an outside fact."""
    answer = [Mount(str(place), kind) for place, kind in kinds.items()]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: answer)


@pytest.mark.parametrize(
    ("kind", "mounted"),
    [
        ("ext4", False),
        ("xfs", False),
        ("overlay", False),
        ("tmpfs", False),
        ("apfs", False),
        ("NTFS", False),
        ("fuseblk", False),  # a local disk in another system's format
        ("fuse.drive", True),
        ("fuse", True),
        ("fuse.sshfs", True),
        ("nfs", True),
        ("nfs4", True),
        ("cifs", True),
        ("smbfs", True),
        ("smb3", True),
        ("9p", True),
        ("ceph", True),
        ("lustre", True),
    ],
)
def test_what_a_folder_lies_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, mounted: bool) -> None:
    place = tmp_path.resolve()
    mounts(monkeypatch, {Path(place.anchor): "ext4", place / "mounted": kind})
    (place / "mounted" / "runs" / "level1").mkdir(parents=True)
    assert locks.on_mount(place / "mounted" / "runs" / "level1") is mounted
    assert locks.on_mount(place / "mounted") is mounted
    assert not locks.on_mount(place)


def test_the_nearest_mount_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local disk within a mounted one, and a link that leads out of it."""
    place = tmp_path.resolve()
    (place / "drive" / "local").mkdir(parents=True)
    mounts(
        monkeypatch, {Path(place.anchor): "ext4", place / "drive": "fuse.drive", place / "drive" / "local": "xfs"}
    )
    assert locks.on_mount(place / "drive")
    assert not locks.on_mount(place / "drive" / "local")
    (place / "drive" / "link").symlink_to(place)
    assert not locks.on_mount(place / "drive" / "link")
    mounts(monkeypatch, {})  # a system that tells nothing
    assert not locks.on_mount(place / "drive")


def test_this_machines_own_mounts_can_be_read(tmp_path: Path) -> None:
    assert locks.on_mount(tmp_path) in (True, False)


@pytest.mark.parametrize("mounted", [False, True], ids=["lock", "lease"])
def test_held_once_and_again(tmp_path: Path, mounted: bool) -> None:
    said: list[str] = []
    for _ in range(3):
        with locks.one_writer(tmp_path, say=said.append, mounted=mounted) as held:
            assert held()
            if mounted:
                assert (tmp_path / ".lease").exists()
        assert {path.name for path in tmp_path.iterdir()} <= set(locks.FILES)
    assert said == []


@pytest.mark.parametrize("mounted", [False, True], ids=["lock", "lease"])
def test_an_error_lets_go(tmp_path: Path, mounted: bool) -> None:
    with pytest.raises(KeyboardInterrupt), locks.one_writer(tmp_path, mounted=mounted):
        raise KeyboardInterrupt
    said: list[str] = []
    with locks.one_writer(tmp_path, say=said.append, mounted=mounted) as held:
        assert held()
    assert said == []


@pytest.mark.parametrize("mounted", [False, True], ids=["lock", "lease"])
def test_the_second_is_told_for_whom_it_waits(tmp_path: Path, mounted: bool) -> None:
    said: list[str] = []
    told, events = threading.Event(), []

    def say(line: str) -> None:
        said.append(line)
        told.set()

    def second() -> None:
        with locks.one_writer(tmp_path, say=say, mounted=mounted):
            events.append("second in")

    thread = threading.Thread(target=second)
    with locks.one_writer(tmp_path, mounted=mounted):
        thread.start()
        assert told.wait(60)
        events.append("first out")
    thread.join(60)
    assert not thread.is_alive()
    assert events == ["first out", "second in"]
    (line,) = said
    assert f"{tmp_path} is being written by process {os.getpid()} on {socket.gethostname()}" in line
    assert line.endswith("; waiting for it to finish")


@pytest.mark.skipif(os.name != "posix", reason="flock is POSIX's")
@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK])
def test_a_disk_without_locks_takes_a_lease(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """As some mounts answer that the system does not know as such."""
    import fcntl

    def flock(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with locks.one_writer(tmp_path, mounted=False) as held:
        assert held()
        assert (tmp_path / ".lease").exists()
    assert not (tmp_path / ".lease").exists()


@pytest.mark.skipif(os.name != "posix", reason="flock is POSIX's")
def test_another_error_of_the_disk_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    def flock(*_: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match="Input/output error"), locks.one_writer(tmp_path, mounted=False):
        raise AssertionError("held without a lock")


def test_a_lease_that_was_taken_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another machine put its own in the place: known before the next write, not only at the next heartbeat."""
    monkeypatch.setattr(locks, "LEASE_SECONDS", 1000.0)
    with locks.one_writer(tmp_path, mounted=True) as held:
        os.replace(tmp_path / ".lease", tmp_path / "aside")
        assert not held()
        (tmp_path / "new").write_text("another machine's")
        os.replace(tmp_path / "new", tmp_path / ".lease")
        assert not held()
    assert (tmp_path / ".lease").read_text() == "another machine's"  # and is not taken away from it

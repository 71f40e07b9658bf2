"""One writer at a time in a folder, on this machine's disks and, as well as they allow it, on mounted ones.

On a local disk the system's own lock serves: it goes with its process, however that ends. Mounted folders
(Google Drive, NFS, SMB) either lack it or keep it from other machines. There a lease serves: a file that its
holder touches at intervals, and that another may take over when it has seen no touch for a while. Two machines
whose mount shows them each other's files minutes late can both hold it: a lease is best effort. So can a machine
that shares its own disk and one that mounts it, since to the former it is a local one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import psutil

from cifarlib.text import printable

LEASE_SECONDS = 120.0  # without a touch until another may take over; all that share a folder must agree on it
FILES = (".lock", ".lease")  # what a process that was killed leaves of a lock

_MOUNTED = (
    *("fuse", "macfuse", "osxfuse", "nfs", "cifs", "smb", "9p", "afs", "ceph", "lustre", "gpfs", "gluster"),
    *("davfs", "webdav", "vboxsf", "virtiofs"),
)
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL}


def on_mount(folder: Path) -> bool:
    """Say whether a folder lies on a mount that other machines may write to, as far as the system tells."""
    place = folder.resolve()
    mounts = {Path(part.mountpoint): part.fstype.lower() for part in psutil.disk_partitions(all=True)}
    kind = next((mounts[parent] for parent in (place, *place.parents) if parent in mounts), "")
    # fuseblk is how Linux reads a local disk in another system's format.
    return kind.startswith(_MOUNTED) and kind != "fuseblk"


@contextlib.contextmanager
def one_writer(
    folder: Path, name: str = "", *, say: Callable[[str], None] = print, mounted: bool | None = None
) -> Iterator[Callable[[], bool]]:
    """Hold an existing folder, or one file in it, for this process; another one waits, and says for whom.

    Args:
        folder: What is to be written.
        name: The one file that is, where it is not the folder as a whole.
        say: Takes the line that says what is waited for.
        mounted: Whether to take a lease instead of a lock; None to look at what the folder lies on.

    Yields:
        A function that says whether the folder is still this process's: a lease can be lost, to another machine
        that saw no sign of this one.
    """
    hidden = f".{name}" if name else ""
    if not (on_mount(folder) if mounted is None else mounted):
        path = folder / f"{hidden}.lock"
        lock = filelock.FileLock(path, fallback_to_soft=False)
        try:
            _acquire(lock, lambda: _read_holder(path), folder / name, say)
        except (NotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
                raise
        else:
            _sign(path, _name(os.getpid(), socket.gethostname(), time.strftime("%H:%M")))
            try:
                yield lambda: True
            finally:
                # While it is held: whoever waits looks again whether what it locks still has the name.
                with contextlib.suppress(OSError):
                    path.unlink()
                lock.release()
            return
    lease = filelock.SoftFileLease(folder / f"{hidden}.lease", lease_duration=LEASE_SECONDS, poll_interval=1.0)

    def holder() -> str:
        owner = lease.owner
        name = _name(owner.pid, owner.hostname) if owner else "another process"
        return f"{name} (should that be gone, this one takes over within {LEASE_SECONDS / 60:.0f} minutes)"

    _acquire(lease, holder, folder / name, say)
    try:
        yield lambda: _ours(lease)
    finally:
        lease.release()


def _ours(lease: filelock.SoftFileLease) -> bool:
    """Say whether a lease is held, by its file: the heartbeat notices a loss only at its second miss."""
    for pause in (0.0, 0.5, 1.0, 2.0):  # who looks whether it is stale may take it away for a moment
        time.sleep(pause)
        if lease.compromise is not None:
            return False
        if owner := lease.owner:
            return owner.token == lease.token
    return False


def _acquire(
    lock: filelock.BaseFileLock, holder: Callable[[], str], what: Path, say: Callable[[str], None]
) -> None:
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        say(f"{what} is being written by {holder()}; waiting for it to finish")
        lock.acquire()


def _sign(path: Path, text: str) -> None:
    """Write the holder's name into a lock file that is held; a courtesy, so that a failure is none."""
    with contextlib.suppress(OSError):
        path.write_text(text)


def _name(pid: int, host: str, since: str = "") -> str:
    return f"process {pid} on {host}" + (f" since {since}" if since else "")


def _read_holder(path: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if text := path.read_text()[:200].strip():
            return printable(text)
    return "another process"

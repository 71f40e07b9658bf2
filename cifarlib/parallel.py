"""Several processes on one training: which part each takes, and what they tell one another.

torchrun starts them (`cifarlib train --devices N` calls it) and says by environment variables who is who. All draw
the same batches and the same augmentation, and each takes its share of every batch. In a process alone nothing
here does anything.
"""

from __future__ import annotations

import datetime
import os

import torch
import torch.distributed
from torch import Tensor

# A download, or another writer that is waited for, keeps one process from its fellows for longer than 10 minutes.
_PATIENCE = datetime.timedelta(hours=12)


def world() -> int:
    """Return how many processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """Return this process's number among them, from 0; the first one writes and speaks."""
    return int(os.environ.get("RANK", "0")) if world() > 1 else 0


def local_rank() -> int:
    """Return this process's number on its machine: that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if world() > 1 else 0


def join() -> None:
    """Connect this process with its fellows, if it has any and has not done so."""
    if world() > 1 and not torch.distributed.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if backend == "nccl":
            torch.cuda.set_device(local_rank())
        torch.distributed.init_process_group(backend, timeout=_PATIENCE)


def share(n: int) -> slice:
    """Return which of `n` rows are this process's; ValueError where one of the processes would have none."""
    if n < world():
        raise ValueError(f"{n} images are too few to be shared by {world()} processes: take fewer, or more images")
    return slice(n * rank() // world(), n * (rank() + 1) // world())


def agree(value: bool) -> bool:
    """Return the first process's value, for all to go the same way."""
    if world() == 1:
        return value
    join()
    found = [value]
    torch.distributed.broadcast_object_list(found, src=0)
    return found[0]


def total(part: Tensor) -> Tensor:
    """Return the sum of the processes' tensors, which are of one shape."""
    if world() == 1:
        return part
    whole = part.clone()
    torch.distributed.all_reduce(whole)
    return whole


def together(part: Tensor, n: int) -> Tensor:
    """Return all `n` rows, of which each process has computed its share."""
    if world() == 1:
        return part
    layout = torch.channels_last if part.ndim == 4 else torch.contiguous_format
    whole = torch.empty((n, *part.shape[1:]), dtype=part.dtype, device=part.device, memory_format=layout)
    whole.zero_()[share(n)] = part
    torch.distributed.all_reduce(whole)  # zeros added to numbers change none of them
    return whole


def wait() -> None:
    """Wait for the others."""
    if world() > 1:
        join()
        torch.distributed.barrier()

"""A study of CIFAR-10 in four levels: the library behind the notebooks."""

from typing import TYPE_CHECKING, Any

from cifarlib.recipes import expect

if TYPE_CHECKING:
    from cifarlib.study import Study

__all__ = ["Study", "expect"]


def __getattr__(name: str) -> Any:
    """Import torch, and all that `Study` stands on, when it is first asked for: `--help` need not wait for it."""
    if name == "Study":
        from cifarlib.study import Study

        return Study
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""A study of CIFAR-10 in four levels: the library behind the notebooks."""

from cifarlib.recipes import expect
from cifarlib.study import Study

__all__ = ["Study", "expect"]

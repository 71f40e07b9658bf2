"""Names that users give to classes, files and folders, made fit for a message and for Markdown; and versions.

HTML needs nothing from here: pandas and jinja escape it. Figures have needs of their own, in `plotting`.
"""

from __future__ import annotations

import os
import re
from importlib import metadata


def version(name: str = "cifarlib") -> str:
    """Return an installed package's version, or "not installed", as of a folder that is run where it lies."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def printable(text: str | os.PathLike[str]) -> str:
    r"""Return a name as a message can show it: one line, and writable in UTF-8.

    Control characters, invisible ones and the bytes of a file name that are not UTF-8 become escapes.

    Example:
        >>> print(printable("two\nlines\udcff"))
        two\nlines\udcff
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in os.fspath(text))


def code_span(text: str | os.PathLike[str]) -> str:
    """Return a name as Markdown code, in which nothing of it is markup.

    The fence is longer than any run of backticks within, as CommonMark has it.

    Example:
        >>> print(code_span("*a* <b>"), code_span("a`b"))
        `*a* <b>` ``a`b``
    """
    shown = printable(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    # One space on both sides is not part of the code; it keeps a backtick at an end off the fence.
    padding = " " if not shown.strip() or shown[0] in "` " or shown[-1] in "` " else ""
    return f"{fence}{padding}{shown}{padding}{fence}"

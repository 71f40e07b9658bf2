"""Stamp the repository's address into everything that leads to it: `make badges REPO=owner/name`.

The address stands in pyproject.toml, [project.urls]. The badges of README.md and of the notebooks repeat it, and
so do the set-up cells, because Colab reads them before there is any cifarlib. Run again, it changes nothing.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def stamp(root: Path, repository: str) -> list[str]:
    """Replace the repository's name in a checkout; return the files that changed.

    Args:
        root: The checkout.
        repository: The name on GitHub, `owner/name`.

    Raises:
        ValueError: `repository` is no such name.
    """
    if not re.fullmatch(r"[A-Za-z0-9-]+/[A-Za-z0-9._-]*[A-Za-z0-9_-]", repository) or repository.endswith(".git"):
        raise ValueError(f"REPO={repository!r} is no owner/name of a repository, such as cifarlib/cifarlib")
    project = root / "pyproject.toml"
    address = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
    former = re.escape(address.removeprefix("https://github.com/"))
    # GitHub's addresses and Colab's that lead to them. A longer name that begins alike is another repository.
    places = re.compile(rf"((?:github\.com|colab\.research\.google\.com/github)/){former}(?![\w.-])")
    changed = []
    for path in (project, root / "README.md", *sorted((root / "notebooks").glob("*.ipynb"))):
        text = path.read_text(encoding="utf-8")
        stamped = places.sub(rf"\g<1>{repository}", text)
        if stamped != text:
            path.write_text(stamped, encoding="utf-8")
            changed.append(path.relative_to(root).as_posix())
    return changed


if __name__ == "__main__":
    try:
        changed = stamp(ROOT, sys.argv[1])
    except ValueError as error:
        sys.exit(str(error))
    print("\n".join(changed) or "nothing to change")
    if any(name.endswith(".ipynb") for name in changed):
        print("reports/demo comes from the notebooks as they were: make demo renews it")

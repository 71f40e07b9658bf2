"""Stamp the repository's address and the release's tag into everything that leads there: `make badges`.

    python tools/badges.py                      the tag of the present version
    python tools/badges.py owner/name           another repository too
    python tools/badges.py --check owner/name   change nothing; exit 1 where something leads elsewhere

Both stand in pyproject.toml, the repository in [project.urls] and the tag as the version. README's badges, the
notebooks' badges and their set-up cells repeat them, because Colab reads those before there is any cifarlib. One
tag in all of them: a notebook that a badge opens installs the library it was written for.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def stamped(root: Path, repository: str = "") -> dict[Path, str]:
    """Return the texts of a checkout's files that differ from what they should be, as they should be.

    Args:
        root: The checkout.
        repository: The name on GitHub, `owner/name`; "" for the one in pyproject.toml.

    Raises:
        ValueError: `repository` is no such name.
    """
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    repository = repository or project["urls"]["Repository"].removeprefix("https://github.com/")
    if not re.fullmatch(r"[A-Za-z0-9-]+/[A-Za-z0-9._-]*[A-Za-z0-9_-]", repository) or repository.endswith(".git"):
        raise ValueError(f"REPO={repository!r} is no owner/name of a repository, such as cifarlib/cifarlib")
    name, tag = r"[\w.-]+/[\w.-]+", f"v{project['version']}"
    places = {
        rf'(?m)^(Repository = "https://github\.com/){name}': rf"\g<1>{repository}",
        rf"(colab\.research\.google\.com/github/){name}/blob/[\w.-]+/": rf"\g<1>{repository}/blob/{tag}/",
        rf"(git\+https://github\.com/){name}(@[\w.-]+)?": rf"\g<1>{repository}@{tag}",
    }
    found = {}
    for path in (root / "pyproject.toml", root / "README.md", *sorted((root / "notebooks").glob("*.ipynb"))):
        text = wanted = path.read_text(encoding="utf-8")
        for place, leads_to in places.items():
            wanted = re.sub(place, leads_to, wanted)
        if wanted != text:
            found[path] = wanted
    return found


def main(arguments: list[str]) -> int:
    """Stamp, or check, and return the exit status."""
    check = "--check" in arguments
    repository = "".join(argument for argument in arguments if argument != "--check")
    try:
        found = stamped(ROOT, repository)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    names = ", ".join(path.relative_to(ROOT).as_posix() for path in found)
    if not check:
        for path, text in found.items():
            path.write_text(text, encoding="utf-8")
        print(f"changed: {names}" if names else "nothing to change")
    elif names:
        print(
            f"Badges or set-up cells lead to another repository than {repository or 'this one'}, or another tag "
            f"than this version's, in {names}: run make badges REPO={repository} and commit what that changes",
            file=sys.stderr,
        )
    return int(check and bool(names))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

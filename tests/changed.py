"""Prints the test files of what was changed since the last commit or, where nothing was, by this branch.

    python -m pytest $(python tests/changed.py)

Those that were changed themselves, that import a changed module, or that are named after it. `tests/test_layers.py` always.
"""

import ast
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ALWAYS = "tests/test_layers.py"


def git(root: Path, *words: str) -> list[str]:
    """The lines of what a git command says; none where it fails."""
    ran = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    return ran.stdout.splitlines()


def changed_files(root: Path) -> list[str]:
    """Files that differ from the last commit and, where none does, from the commit where the branch left the main one."""
    here = git(root, "diff", "--name-only", "HEAD") + git(root, "ls-files", "--others", "--exclude-standard")
    if here:
        return here
    base = git(root, "merge-base", "HEAD", "origin/main")
    if not base or base == git(root, "rev-parse", "HEAD"):
        base = ["HEAD~1"]
    return git(root, "diff", "--name-only", base[0], "HEAD")


def imported(path: Path) -> set[str]:
    """Names of modules that a file imports anywhere in it, and of what it takes from them, which may be modules."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def module_name(path: Path) -> str:
    """What a file is imported as: those of `tests` by their own name alone."""
    parts = path.with_suffix("").parts
    return parts[-1] if parts[0] == "tests" else ".".join(parts).removesuffix(".__init__")


def tests_of(file: str, imports: dict[str, set[str]]) -> set[str]:
    """The test files that belong to a file; `imports` are those of every test file."""
    path = Path(file)
    if file in imports:
        return {file}
    if path.suffix != ".py":
        return set()
    named = str(Path("tests", *path.parts[1:-1], f"test_{path.name}"))
    return {test for test, names in imports.items() if test == named or module_name(path) in names}


def selected(root: Path, changed: Iterable[str]) -> tuple[list[str], list[str]]:
    """The test files to run, and the Python files that no test belongs to."""
    tests = sorted(path.relative_to(root).as_posix() for path in (root / "tests").rglob("test_*.py"))
    imports = {test: imported(root / test) for test in tests}
    found = {file: tests_of(file, imports) for file in changed}
    alone = [file for file, tests in found.items() if not tests and file.endswith(".py") and (root / file).exists()]
    return sorted({ALWAYS}.union(*found.values())), alone


if __name__ == "__main__":
    files, alone = selected(ROOT, changed_files(ROOT))
    if alone:
        print(f"No test belongs to {', '.join(alone)}: `make test` runs them all.", file=sys.stderr)
    print(*files)

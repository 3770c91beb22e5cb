"""What `make check` runs: the tests of changed files, and no others."""

import subprocess

import changed
import pytest

FILES = {
    "mmdiff/masking/selection.py": "",
    "mmdiff/masking/anchors.py": "",
    "preprocessing/imports/mot.py": "",
    "tests/conftest.py": "",
    "tests/tiny.py": "",
    "tests/masking/test_selection.py": "",
    "tests/masking/test_strategies.py": "from mmdiff.masking.selection import choose\nimport tiny",
    "tests/preprocessing/test_import_boxes.py": "def test():\n    from preprocessing.imports import mot",
    "tests/test_layers.py": "",
    "tests/test_sweep.py": "import mmdiff.masking.anchors",
}


@pytest.fixture
def tree(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("file", "tests"),
    [
        ("mmdiff/masking/selection.py", {"tests/masking/test_selection.py", "tests/masking/test_strategies.py"}),
        ("mmdiff/masking/anchors.py", {"tests/test_sweep.py"}),
        ("preprocessing/imports/mot.py", {"tests/preprocessing/test_import_boxes.py"}),
        ("tests/tiny.py", {"tests/masking/test_strategies.py"}),
        ("tests/test_sweep.py", {"tests/test_sweep.py"}),
        ("tests/test_that_was_deleted.py", set()),
        ("README.md", set()),
    ],
)
def test_a_test_belongs_to_what_it_imports_and_is_named_after(tree, file, tests):
    assert changed.selected(tree, [file]) == (sorted(tests | {"tests/test_layers.py"}), [])


def test_what_no_test_belongs_to_is_named(tree):
    assert changed.selected(tree, ["tests/conftest.py"]) == (["tests/test_layers.py"], ["tests/conftest.py"])


def test_changes_are_those_since_the_last_commit_or_of_it(tree):
    def git(*words):
        settings = ("user.name=a", "user.email=a@b", "commit.gpgsign=false")
        subprocess.run(["git", *(x for s in settings for x in ("-c", s)), *words], cwd=tree, check=True)

    git("init", "--quiet")
    for message in ("one", "two"):
        (tree / "mmdiff" / f"{message}.py").touch()
        git("add", ".")
        git("commit", "--quiet", "--message", message)
    assert changed.changed_files(tree) == ["mmdiff/two.py"]
    (tree / "tests" / "tiny.py").write_text("changed")
    (tree / "tests" / "new.py").touch()
    assert changed.changed_files(tree) == ["tests/tiny.py", "tests/new.py"]

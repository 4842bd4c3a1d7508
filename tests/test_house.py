"""What holds the parts of the repository together: names, addresses, the wheel, the glossary."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from itertools import product
from pathlib import Path
from unittest.mock import DEFAULT, patch

import pytest
from hypothesis import settings
from IPython.core.interactiveshell import InteractiveShell
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.processes import forget, in_process, run_pytest
from tools import contents, fork, lesson, mutants
from tools.fork import address
from tools.notebooks import ROOT, read

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LESSONS = contents.lessons()
NOTEBOOKS = [*LESSONS, "benchmarks"]  # which teaches no module
TESTS = dict(resnet="nets", densenet="nets")  # tests that bear another name
CHINESE = r"[\u4e00-\u9fff]+"


def prose(stem: str) -> str:
    return "\n".join(cell.source for cell in read(ROOT / f"book/{stem}.ipynb").cells if cell.cell_type == "markdown")


def glossary(stem: str) -> list[tuple[str, str]]:
    """The terms that a lesson brings, with their Chinese equivalents."""
    rows = rf"^\| (.+?) \| ({CHINESE}) \|.*\({stem}\.ipynb\)"
    return re.findall(rows, (ROOT / "book/glossary.md").read_text("utf-8"), re.M)


@pytest.mark.parametrize("path", sorted(ROOT.glob("*.md")), ids=lambda path: path.name)
def test_links_of_the_pages_outside_the_book_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text("utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_notebook_is_in_the_table_of_contents() -> None:
    assert {path.stem for path in (ROOT / "book").glob("*.ipynb")} == set(NOTEBOOKS)


@pytest.mark.parametrize("stem", LESSONS)
def test_a_lesson_has_a_module_and_tests(stem: str) -> None:
    module = contents.facts(stem)["module"]
    assert (ROOT / f"lessons_lib/{module}.py").exists()
    assert (ROOT / f"tests/test_{TESTS.get(module, module)}.py").exists()


@pytest.mark.parametrize("stem", NOTEBOOKS)
def test_a_lesson_installs_the_library_from_the_repository_s_address(stem: str) -> None:
    installs = re.findall(r"git\+(\S+?)\"", "\n".join(cell.source for cell in read(ROOT / f"book/{stem}.ipynb").cells))
    assert installs == [address()]


@pytest.fixture
def naming(tmp_path: Path) -> dict[Path, str]:
    """A copy of the files that name the address, and their texts."""
    (tmp_path / "book").mkdir()
    names = ("pyproject.toml", "_config.yml", *(f"book/{stem}.ipynb" for stem in NOTEBOOKS))
    return {Path(shutil.copy(ROOT / name, tmp_path / name)): (ROOT / name).read_text() for name in names}


@pytest.mark.parametrize(("owner", "new"), [("ann", "ann/book"), ("ann-b/my.book", "ann-b/my.book")])
def test_a_fork_points_to_itself_everywhere(owner: str, new: str, naming: dict[Path, str], tmp_path: Path) -> None:
    fork.main(owner, tmp_path)
    for path, text in naming.items():
        assert address() in text and path.read_text() == text.replace(address(), f"https://github.com/{new}")
    fork.main(address().removeprefix("https://github.com/"), tmp_path)
    assert {path: path.read_text() for path in naming} == naming


def test_an_interrupted_fork_is_finished_by_the_next(naming: dict[Path, str], tmp_path: Path) -> None:
    for step in range(len(naming)):
        replaced = patch("os.replace", side_effect=[*[DEFAULT] * step, KeyboardInterrupt], wraps=os.replace)
        with replaced, pytest.raises(KeyboardInterrupt):
            fork.main(f"ann-{step}", tmp_path)
        fork.main(f"ann-{step}", tmp_path)
        assert all(f"github.com/ann-{step}/book" in path.read_text() for path in naming)


@pytest.mark.parametrize("owner", ["", "a b", "a/b/c", "https://github.com/ann", "../ann"])
def test_a_fork_needs_a_name(owner: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="owner: expected a GitHub name, or NAME/REPOSITORY, got"):
        fork.main(owner, tmp_path)


def test_nothing_else_names_the_address() -> None:
    """So that a fork is whole: what names it is what tools/fork.py changes."""
    ours = ("*.*", "[A-Z]*", ".github/**/*", ".ci/*", "book/**/*", "lessons_lib/**/*", "tests/**/*", "tools/**/*")
    files = {
        path for pattern in ours for path in ROOT.glob(pattern) if path.is_file() and "__pycache__" not in path.parts
    }
    owner = address().split("/")[-2]
    owner = re.compile(rf"github\.com/{owner}\b|\b{owner}\.github\.io".encode(), re.IGNORECASE)
    naming = {str(path.relative_to(ROOT)) for path in files if owner.search(path.read_bytes())}
    assert naming == {"pyproject.toml", "_config.yml", *(f"book/{stem}.ipynb" for stem in NOTEBOOKS)}


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The parts of the repository into which a new lesson is put."""
    shutil.copytree(ROOT / "lessons_lib", tmp_path / "lessons_lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests", "book"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / "_toc.yml", tmp_path)
    return tmp_path


def use(root: Path, module: Path, test: Path, notebook: Path) -> None:
    """Run the tests and the cells of a lesson in a checkout."""
    forget("lessons_lib")
    sys.path.insert(0, str(root))
    os.chdir(root)
    report = run_pytest("-q", "-p", "no:cacheprovider", "--doctest-modules", module, test)
    assert "3 passed" in report, report
    cells = "\n".join(cell.source for cell in read(notebook).cells if cell.cell_type == "code")
    InteractiveShell().run_cell(cells).raise_error()


def test_a_new_lesson_begins_with_a_module_whose_test_and_notebook_run(bare: Path) -> None:
    before = (bare / "_toc.yml").read_text()
    assert lesson.main("house_rules", bare) is None
    files = [
        "lessons_lib/house_rules.py",
        "tests/test_house_rules.py",
        "book/house_rules.ipynb",
    ]
    in_process(use, bare, *(bare / name for name in files))
    assert f"git+{address()}" in read(bare / files[2]).cells[2].source
    assert not [name for name in files if "new lesson" in (bare / name).read_text().casefold().replace("_", " ")]
    last = f"      - file: book/{LESSONS[-1]}\n"
    assert (bare / "_toc.yml").read_text() == before.replace(last, last + "      - file: book/house_rules\n")
    written = {path: path.read_bytes() for path in bare.rglob("*.*") if path.is_file()}
    assert lesson.main("house_rules", bare) == "name: lessons_lib/house_rules.py is there already"
    assert {path: path.read_bytes() for path in written} == written


@pytest.mark.parametrize("name", ["", "Weight", "weight-decay", "2d", "../x", "a__b"])
def test_a_lesson_needs_a_module_s_name(name: str, bare: Path) -> None:
    assert lesson.main(name, bare).startswith("name: expected lower-case words joined by _, such as weight_decay, got")
    assert not list(bare.glob("book/*"))


@pytest.mark.parametrize("stem", LESSONS)
def test_the_glossary_has_every_chinese_term_of_a_lesson_and_no_other(stem: str) -> None:
    rows = glossary(stem)
    assert {chinese for _, chinese in rows} == set(re.findall(CHINESE, prose(stem)))
    assert [term for term, _ in rows] == sorted((term for term, _ in rows), key=str.casefold)


@pytest.mark.parametrize("stem", LESSONS)
def test_a_chinese_term_stands_at_its_first_mention_only(stem: str) -> None:
    terms = re.findall(CHINESE, prose(stem))
    assert len(terms) == len(set(terms))
    # Neither goals nor code, links' addresses and headings in English count as a mention.
    said = re.sub(r"(?s)After this lesson you can.*?\nYou need|`[^`]*`|\]\([^)\s]*\)", "", prose(stem))
    said = re.sub(rf"(?m)^#((?!{CHINESE}).)*$", "", said)
    for term, chinese in glossary(stem):
        first = re.search(rf"(?i)\b{re.escape(term)}s?\b", said)
        assert not first or chinese in said[: first.end() + len("** (") + len(chinese)], term


def test_no_lesson_uses_a_term_of_the_glossary_before_the_one_that_brings_it() -> None:
    said = {stem: re.sub(r"\[[^\]]*\]\([^)]*\)|`[^`]*`", "", prose(stem)) for stem in LESSONS}  # but links and code
    for n, stem in enumerate(LESSONS):
        for (term, _), earlier in product(glossary(stem), LESSONS[:n]):
            assert not re.search(rf"(?i)\b{re.escape(term)}s?\b", said[earlier]), f"{earlier}: {term}"


def pins(name: str) -> list[Requirement]:
    return [Requirement(line) for line in (ROOT / name).read_text("utf-8").splitlines()]


def test_the_book_is_built_with_the_versions_that_are_tested_and_without_pytorch() -> None:
    book, everything = (
        {(pin.name, str(pin.specifier)) for pin in pins(f"requirements{part}.txt")} for part in ("-book", "")
    )
    assert book < everything
    assert "torch" not in dict(book)


def test_every_requirement_is_pinned_and_the_environment_is_the_pinned_one() -> None:
    pinned = pins("requirements.txt")
    assert all([s.operator for s in pin.specifier] == ["=="] for pin in pinned)
    here = [pin for pin in pinned if pin.marker is None or pin.marker.evaluate()]
    wrong = {pin.name: version(pin.name) for pin in here if not pin.specifier.contains(version(pin.name))}
    assert wrong == {}


def test_the_wheel_is_bounded_loosely_and_carries_data_styles_and_licences(tmp_path: Path) -> None:
    source = tmp_path / "source"  # setuptools leaves a build folder beside what it builds
    shutil.copytree(ROOT / "lessons_lib", source / "lessons_lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    command += ["-w", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    names = set(archive.namelist())
    assert {str(path.relative_to(source)) for path in source.glob("lessons_lib/**/*") if path.is_file()} <= names
    assert {"licenses/LICENSE", "licenses/lessons_lib/fashion_mnist/LICENSE"} <= {
        name.partition("dist-info/")[2] for name in names
    }
    metadata = archive.read(next(name for name in names if name.endswith("METADATA"))).decode()
    needs = [Requirement(r) for r in re.findall(r"^Requires-Dist: (.+)$", metadata, re.M) if "extra ==" not in r]
    assert {str(n) for n in needs} == {str(Requirement(line)) for line in PYPROJECT["project"]["dependencies"]}
    colab = dict(re.findall(r"^(\w+)==(.+)$", (ROOT / "tools/colab.txt").read_text(), re.M))
    assert all(n.specifier.contains(colab[n.name]) for n in needs)


def test_the_oldest_versions_that_the_wheel_allows_are_tried() -> None:
    tried = dict(re.findall(r"([\w]+)==([\d.]+)", (ROOT / ".github/workflows/book.yml").read_text()))
    for need in map(Requirement, PYPROJECT["project"]["dependencies"]):
        (bound,) = need.specifier
        assert (bound.operator, f"{tried[need.name]}.".startswith(f"{bound.version}.")) == (">=", True), need


def test_importing_a_lesson_s_module_is_light() -> None:
    names = ", ".join(f"lessons_lib.{contents.facts(stem)['module']}" for stem in LESSONS)
    code = f"import sys, {names}; print(*sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "torch" in modules
    assert not {"pandas", "requests", "scipy", "torchvision", "matplotlib", "ipywidgets"} & set(modules)


def test_every_dependency_has_its_purpose_and_licence_beside_it() -> None:
    groups = PYPROJECT["dependency-groups"]
    named = [*PYPROJECT["project"]["dependencies"], *groups["book"], *groups["dev"][1:]]  # dev begins with all of book
    said = re.findall(r'^  "(.+)", +# .{5,}; .*\w', (ROOT / "pyproject.toml").read_text("utf-8"), re.M)
    assert set(named) - set(said) == set(), 'pyproject.toml: write each as "name",  # what it is for; its licence'
    pinned = {canonicalize_name(pin.name) for pin in pins("requirements.txt")}
    assert {canonicalize_name(Requirement(line).name) for line in named} - pinned == set(), "run make lock"


def test_git_leaves_the_ends_of_lines_alone(tmp_path: Path) -> None:
    files = [".gitattributes", ".ci/run", "Makefile", "book/sgd.ipynb"]
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    git = ["git", "-c", "core.autocrlf=true"]  # as many have it on Windows
    for command in (["init"], ["add", "."], ["checkout-index", "--all", "--prefix=out/"]):
        subprocess.run([*git, *command], cwd=tmp_path, check=True, capture_output=True)
    assert [name for name in files if b"\r" in (tmp_path / "out" / name).read_bytes()] == []


def test_actions_are_pinned_to_commits() -> None:
    uses = re.findall(r"uses: (\S+)", (ROOT / ".github/workflows/book.yml").read_text())
    assert uses
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", action) for action in uses)


def test_random_cases_are_the_same_on_every_run_and_machine() -> None:
    assert (settings.default.derandomize, settings.default.deadline, settings.default.database) == (True, None, None)


def test_survivors_of_mutants_are_lines_that_the_library_has() -> None:
    assert mutants.listed()
    gone = []
    for function, change in mutants.listed():
        text = (ROOT / f"lessons_lib/{function.partition('.')[0]}.py").read_text("utf-8")
        lines = {line.strip() for line in text.splitlines()}
        gone += [(function, line) for line in re.findall(r"^- (.*)$", change, re.M) if line not in lines]
    assert gone == [], "take these out of tests/survivors.txt"


def test_nothing_is_unpickled() -> None:
    for path in [*ROOT.glob("lessons_lib/*.py"), *ROOT.glob("tools/*.py"), *ROOT.glob("book/*.ipynb")]:
        text = path.read_text()
        assert not re.search(r"import (pickle|joblib|dill)\b|allow_pickle|weights_only=False", text), path
        assert text.count("torch.load(") == text.count("weights_only=True"), path

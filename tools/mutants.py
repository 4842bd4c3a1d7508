"""Change the library in many small ways, one at a time, and see whether its tests notice: `make mutants only=sgd`.

mutmut makes the changes ("mutants") in a copy of the repository, and tries each against those tests of the module that
reach the changed function. What no test notices must stand in tests/survivors.txt, and nothing else may.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SURVIVORS = ROOT / "tests/survivors.txt"
SETTINGS = """
[tool.mutmut]
source_paths = ["lessons_lib/"]
only_mutate = ["lessons_lib/{stem}.py"]
pytest_add_cli_args = ["--hypothesis-profile=mutants", "-p", "no:cacheprovider", "-k", "{which}"]
pytest_add_cli_args_test_selection = {tests}
also_copy = ["tools", "book", "_config.yml", "_toc.yml", "README.md"]
timeout_constant = 10
timeout_multiplier = 4
"""
# torch.compile cannot follow mutmut's switch between the mutants. Of the doors, those that name arguments are quick.
WHICH = "not compile and not record and (not test_doors or alike or by_name or mixed)"
# mutmut first asks which tests reach which function. A process that a test starts cannot answer, and must not try.
CHILDREN = """
import os

if os.environ.get("MUTANT_UNDER_TEST") == "stats":
    os.environ["MUTANT_UNDER_TEST"] = ""
"""
Mutant = tuple[str, str]  # the function, such as sgd.batches, and the lines taken out (-) and put in (+)


def listed() -> list[Mutant]:
    """The mutants that tests/survivors.txt explains."""
    blocks = SURVIVORS.read_text("utf-8").strip().split("\n\n")[1:]
    changes = re.compile(r"(?:^- .*\n?)+(?:^\+ .*\n?)*", re.MULTILINE)
    return [(block.partition(":")[0], change.strip()) for block in blocks for change in changes.findall(block)]


def tests_of(stem: str) -> list[str]:
    """A module's own test file, or those that import it; the table of refusals; and the doors, of which see WHICH."""
    own = ROOT / f"tests/test_{stem.strip('_')}.py"
    names = rf"(?m)^from lessons_lib(\.{stem}\b| import .*\b{stem}\b)"
    found = [own] if own.exists() else [p for p in ROOT.glob("tests/test_*.py") if re.search(names, p.read_text())]
    return [f"tests/{path.name}" for path in (*found, ROOT / "tests/test_refusals.py", ROOT / "tests/test_doors.py")]


def mutate(stem: str, folder: Path) -> list[tuple[Mutant, str]]:
    """The mutants of a module, and what became of each."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "_build", "runs", "mutants", "*.egg-info"))
    with (folder / "pyproject.toml").open("a") as file:
        file.write(SETTINGS.format(stem=stem, tests=tests_of(stem), which=WHICH))
    site = folder.with_name("site")
    site.mkdir()
    (site / "sitecustomize.py").write_text(CHILDREN)
    # Threads do not survive the fork that starts each mutant's tests.
    settings = dict(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", PYTHONPATH=str(site))
    place = dict(cwd=folder, env=os.environ | settings, text=True, stderr=subprocess.STDOUT)
    mutmut = [sys.executable, "-m", "mutmut"]
    children = str(3 * (os.cpu_count() or 1))  # some mutants wait for a server that does not answer
    done = subprocess.run([*mutmut, "run", "--max-children", children], **place, stdout=subprocess.PIPE)
    results = subprocess.check_output([*mutmut, "results", "--all", "true"], **place)
    states = re.findall(r"^\s*(lessons_lib\.\S+): (.+)$", results, re.MULTILINE)
    if done.returncode or not states:
        sys.exit(f"{stem}: mutmut could not run: {done.stdout[-2000:]}")
    os.chdir(folder)
    return [(mutant(stem, name), state) for name, state in states]


def mutant(stem: str, name: str) -> Mutant:
    """What mutmut calls lessons_lib.sgd.x_batches__mutmut_3, or …xǁBatchNormǁforward__mutmut_3, by what it changes."""
    from mutmut.mutation.diff_apply import get_diff_for_mutant  # is only in .venv-mutants

    function = name.rpartition(".")[2].partition("__mutmut_")[0][2:].replace("ǁ", ".")
    difference = get_diff_for_mutant(name, path=f"lessons_lib/{stem}.py").splitlines()[2:]
    changed = [f"{line[0]} {line[1:].strip()}" for line in difference if line[0] in "-+"]
    return f"{stem}.{function}", "\n".join(changed)


def main(stems: list[str]) -> None:
    """Print the score of each module, what is unnoticed but not listed, and what is listed but noticed or gone."""
    bad = 0
    for stem in stems or [path.stem for path in sorted(ROOT.glob("lessons_lib/[!_]*.py"))] + ["__main__"]:
        with tempfile.TemporaryDirectory() as folder:
            mutants = mutate(stem, Path(folder, "book"))
            os.chdir(ROOT)
        explained = {mutant for mutant in listed() if mutant[0].startswith(f"{stem}.")}
        # On a busy machine any mutant can run too long: if many do, ask again.
        late = {mutant for mutant, state in mutants if state == "timeout"}
        left = [mutant for mutant, state in mutants if state not in ("killed", "timeout")]
        score = 1 - len(left) / len(mutants)
        print(f"{stem}: {score:.1%} of {len(mutants)} mutants noticed, {len(late)} by their time", flush=True)
        new, stale = dict.fromkeys(m for m in left if m not in explained), explained - late - set(left)
        for title, found in (("unnoticed, and not listed", new), ("listed, but noticed or gone", stale)):
            for function, change in found:
                print(f"\n{function}: {title}\n{change}", flush=True)
        bad += len(new) + len(stale)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main(sys.argv[1:])

"""Change the library in many small ways, one at a time, and see whether its tests notice: `make mutants`.

mutmut makes the changes ("mutants") in a copy of the repository; those of a module are tried against that module's own
tests. Those that no test notices must stand in tests/survivors.txt, each with the reason why, and nothing else may. To
look at some modules only: `make mutants only="sgd batch_norm"`. A module takes minutes, all of them hours.
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
# A module's tests; __main__'s are in test_main.py, those of the two kinds of net in test_nets.py.
TESTS = {path.stem: f"tests/test_{path.stem.strip('_')}.py" for path in sorted(ROOT.glob("lessons_lib/*.py"))}
TESTS |= dict.fromkeys(["resnet", "densenet"], "tests/test_nets.py")
MODULES = [stem for stem, tests in TESTS.items() if (ROOT / tests).exists()]
SETTINGS = """
[tool.mutmut]
source_paths = ["lessons_lib/"]
only_mutate = ["lessons_lib/{stem}.py"]
pytest_add_cli_args_test_selection = ["{tests}", "tests/test_refusals.py"]
also_copy = ["tools", "book", "_config.yml", "_toc.yml", "README.md"]
timeout_constant = 10
timeout_multiplier = 4
"""


# mutmut first asks which tests reach which function. A process that a test starts cannot answer, and must not try.
CHILDREN = """
import os

if os.environ.get("MUTANT_UNDER_TEST") == "stats":
    os.environ["MUTANT_UNDER_TEST"] = ""
"""


def explained() -> set[str]:
    """The mutants that tests/survivors.txt lists."""
    lines = SURVIVORS.read_text("utf-8").splitlines()
    return {line.split()[0] for line in lines if line.startswith("lessons_lib.")}


def mutate(stem: str, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """What became of each mutant of a module; and, of those that no test notices, what they change."""
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "_build", "runs", "mutants", "*.egg-info"))
    with (folder / "pyproject.toml").open("a") as file:
        file.write(SETTINGS.format(stem=stem, tests=TESTS[stem]))
    customs = folder.with_name("site") / "sitecustomize.py"
    customs.parent.mkdir()
    customs.write_text(CHILDREN)
    # Threads do not survive the fork that starts each mutant's tests.
    environment = os.environ | dict(
        OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", TQDM_DISABLE="1", PYTHONPATH=str(customs.parent)
    )
    run = [sys.executable, "-m", "mutmut"]
    with (folder / "log").open("w") as log:
        # More than there are cores: some mutants wait for a server that does not answer.
        children = str(3 * (os.cpu_count() or 1))
        done = subprocess.run(
            [*run, "run", "--max-children", children], cwd=folder, env=environment, stdout=log, stderr=log
        )
    results = subprocess.run([*run, "results", "--all", "true"], cwd=folder, env=environment, capture_output=True)
    states = dict(re.findall(r"^\s*(lessons_lib\.\S+): (.+)$", results.stdout.decode(), re.M))
    if done.returncode or not states:
        sys.exit(f"{stem}: mutmut could not run: {(folder / 'log').read_text()[-2000:]}")
    left = [name for name, state in states.items() if state not in ("killed", "timeout")]
    return states, {name: difference([*run, "show", name], folder) for name in left}


def difference(show: list[str], folder: Path) -> str:
    """The lines that a mutant takes away and puts in their place."""
    shown = subprocess.run(show, cwd=folder, capture_output=True).stdout.decode()
    return "\n".join(re.findall(r"^[-+](?![-+]).*$", shown, re.M))


def main(stems: list[str]) -> None:
    total, unnoticed, stale = 0, {}, set()
    for stem in stems or MODULES:
        with tempfile.TemporaryDirectory() as folder:
            states, left = mutate(stem, Path(folder, "book"))
        total, unnoticed = total + len(states), unnoticed | left
        # On a busy machine any mutant can run too long: if many do, ask again.
        late = list(states.values()).count("timeout")
        print(f"{stem:17} {len(states):4} mutants, {len(states) - len(left):4} noticed, {late:3} too slow", flush=True)
        for name in left.keys() - explained():
            print(f"{name}\n{left[name]}", flush=True)
        ours = {name for name in explained() if name.startswith(f"lessons_lib.{stem}.")}
        stale |= {name for name in ours if states.get(name, "killed") == "killed"}
    print(f"{1 - len(unnoticed) / total:.1%} of {total} mutants noticed")
    if new := unnoticed.keys() - explained():
        print(f"not in {SURVIVORS.name}, so a test is missing: " + ", ".join(sorted(new)))
    if stale:
        print(f"in {SURVIVORS.name}, but noticed or gone: " + ", ".join(sorted(stale)))
    sys.exit(bool(new or stale))


if __name__ == "__main__":
    main(sys.argv[1:])

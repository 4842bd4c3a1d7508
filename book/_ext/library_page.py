"""The page of the library: what each of its functions and classes is for, from the docstrings, and where it is used.

The modules are read, not imported: building the book needs no PyTorch.
"""

import ast
import re
from collections.abc import Iterator

from tools.contents import ROOT

from book_pages import page
from lessons import lessons

LIBRARY = ROOT / "lessons_lib"
SECTION = re.compile(r"(Args|Returns|Raises):")
ENTRY = re.compile(r"^ {4}(?=[\w, .()]+: )", re.MULTILINE)  # of Args or Raises: a name and a colon


@page
def library() -> str:
    """Each module with its functions: those of the lessons in the book's order, then what lessons share."""
    taught = {lesson.module: lesson for lesson in lessons().values()}
    imported = re.findall(r"from lessons_lib\.(\w+) import", "\n".join(lesson.code for lesson in lessons().values()))
    shared = sorted(set(imported) - set(taught))
    parts = []
    for module in [*taught, *shared]:
        source = (LIBRARY / f"{module}.py").read_text("utf-8")
        tree = ast.parse(source)
        parts += [f"## lessons_lib.{module}", *described(tree)]
        if module in taught:
            parts.append(f"Taught in [{taught[module].title}]({taught[module].stem}.ipynb).")
        for node in public(tree):
            kind = "class " if isinstance(node, ast.ClassDef) else ""
            parts += [f"### {kind}`{node.name}`", signature(node, source), *described(node)]
            parts += [used(node.name), *methods(node, source)]
    return "\n\n".join(filter(None, parts)) + "\n"


def public(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.ClassDef]:
    """The functions and classes of a module, or the methods of a class, that are there to be used."""
    kinds = ast.FunctionDef | ast.ClassDef
    return (node for node in tree.body if isinstance(node, kinds) and node.name[0] != "_" and ast.get_docstring(node))


def methods(node: ast.AST, source: str) -> Iterator[str]:
    if isinstance(node, ast.ClassDef):
        for method in public(node):
            yield signature(method, source)
            yield from described(method)


def signature(node: ast.FunctionDef | ast.ClassDef, source: str) -> str:
    """What stands before the docstring; of a class, what makes an object of it too."""
    lines = source.splitlines()[node.lineno - 1 : node.body[0].lineno - 1]
    made = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
    for init in made if isinstance(node, ast.ClassDef) else []:
        lines += source.splitlines()[init.lineno - 1 : init.body[0].lineno - 1]
    indent = " " * node.col_offset
    return "\n".join(["```python", *(line.removeprefix(indent) for line in lines), "```"])


def used(name: str) -> str:
    """The lessons whose code names something of the library."""
    found = [lesson for lesson in lessons().values() if re.search(rf"\b{name}\b", lesson.code)]
    return f"Used in {', '.join(f'[{lesson.title}]({lesson.stem}.ipynb)' for lesson in found)}." if found else ""


def described(node: ast.AST) -> Iterator[str]:
    """A docstring as Markdown: its paragraphs, its lists of arguments and errors, its examples as code."""
    for block in (ast.get_docstring(node) or "").split("\n\n"):
        lines = block.splitlines()
        if lines[0].startswith(">>>"):
            yield f"```pycon\n{block}\n```"
        elif SECTION.fullmatch(lines[0]):
            yield f"**{lines[0]}**"
            entries = ENTRY.split("\n".join(lines[1:]))[1:]
            named = (entry.partition(": ") for entry in entries)
            yield "\n".join(f"- `{name}`: {plain(text)}" for name, _, text in named) or plain(" ".join(lines[1:]))
        else:
            yield plain(block)


def plain(text: str) -> str:
    """Words as they are, whatever Markdown would make of them, with code between backticks."""
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()))
    return "".join(part if part[:1] == "`" else re.sub(r"([\\*_{}\[\]<>#|~$])", r"\\\1", part) for part in parts)


def setup(app: object) -> dict[str, bool]:
    return dict(parallel_read_safe=True, parallel_write_safe=True)

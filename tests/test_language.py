"""The language of the code: names that say what they hold, lines of 100 columns, documented arguments."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.test_architecture import PACKAGES, ROOT

MODULES = [
    *sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")),
    ROOT / "gridcast.py",
]

EMPTY_WORDS = frozenset(
    [
        "found",
        "place",
        "known",
        "part",
        "asked",
        "told",
        "which",
        "one",
        "each",
        "few",
        "kept",
        "shown",
        "given",
        "whole",
        "other",
        "others",
        "said",
        "held",
        "made",
        "who",
        "what",
        "here",
        "aside",
        "stands",
        "stand",
    ]
)
"""Words that say nothing of what a name holds."""
EXCEPTIONS = {
    ("jobs/readers/condor.py", "HELD"): "HTCondor's name of the state",
}
"""Names that are right all the same, by module and word, and why."""
LONGEST_LINE = 100
UNDOCUMENTED = 2
"""Arguments that a public function may have without a section that describes them."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a module: made by the worker that runs these tests, not by all."""
    return ast.parse(path.read_text(encoding="utf-8"))


def names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every name that a module gives: variables, attributes, arguments, functions, classes."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name, node.lineno
            case ast.arg(arg=name):
                yield name, node.lineno
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name, node.lineno
            case ast.ClassDef(name=name) | ast.MatchAs(name=str(name)):
                yield name, node.lineno
            case ast.ExceptHandler(name=str(name)):
                yield name, node.lineno
            case ast.alias(asname=str(name)):
                yield name, node.lineno


def public_functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Functions of a module, and methods of its public classes, that others may call.

    Those of ``commands`` are not among them: their options have help texts.
    """
    for node in tree.body:
        inner = node.body if isinstance(node, ast.ClassDef) and node.name[0] != "_" else [node]
        for function in inner:
            is_function = isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            if not is_function or function.name.startswith("_"):
                continue
            if not any(ast.unparse(name) == "overload" for name in function.decorator_list):
                yield function


def arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    every = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return [argument.arg for argument in every if argument.arg not in ("self", "cls")]


def is_described(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a docstring has the section, names every argument, or refers to one that does."""
    text = ast.get_docstring(function) or ""
    refers = re.search(
        r"\bSee ``?\w|^See \w+\b|[Aa]rguments (as|are) (of|for|those)", text, re.MULTILINE
    )
    names_all = all(f"``{name}" in text for name in arguments(function))
    is_asgi = arguments(function)[-3:] == ["scope", "receive", "send"]
    return bool("Args:" in text or refers or names_all or is_asgi)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_names_say_what_they_hold(path: Path) -> None:
    module = name_of(path)
    empty = {
        f"{module}:{line} {name}"
        for name, line in names(tree_of(path))
        if name.strip("_").lower() in EMPTY_WORDS and (module, name) not in EXCEPTIONS
    }
    assert empty == set()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_lines_end_by_column_100(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert {
        f"{name_of(path)}:{number}"
        for number, line in enumerate(lines, 1)
        if len(line) > LONGEST_LINE
    } == set()


@pytest.mark.parametrize(
    "path", [path for path in MODULES if path.parent.name != "commands"], ids=name_of
)
def test_public_functions_describe_their_arguments(path: Path) -> None:
    undescribed = {
        f"{name_of(path)}:{function.lineno} {function.name}"
        for function in public_functions(tree_of(path))
        if len(arguments(function)) > UNDOCUMENTED and not is_described(function)
    }
    assert undescribed == set()


def test_the_exceptions_are_needed() -> None:
    given = {(name_of(path), name) for path in MODULES for name, _ in names(tree_of(path))}
    assert set(EXCEPTIONS) <= given

"""The house keeps its shape: imports point down, and what belongs in one place stays there."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src/scfl_green"
# From the ground up; a room imports from floors below its own, and from itself.
FLOORS = [
    ["errors", "bounds"],
    ["files", "terminal"],
    ["models", "security"],
    ["data", "energy"],
    ["training"],
    ["federated"],
    ["share"],
    ["runs"],
    ["sites"],
    ["analysis"],
    ["cli"],
    ["__main__"],
]
LEVEL = {name: level for level, names in enumerate(FLOORS) for name in names}
FILES = sorted(path for path in SRC.rglob("*.py") if path != SRC / "__init__.py")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    return found


def home(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_imports_point_down(path: Path) -> None:
    own = home(path)
    for name in imports(path):
        if name.startswith("scfl_green."):
            other = name.split(".")[1]
            assert other == own or LEVEL[other] < LEVEL[own], f"{own} imports {name}"


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("flwr", {"federated", "sites"}),
        ("codecarbon", {"energy"}),
        ("hydra", {"share", "runs", "sites", "analysis"}),
        ("wandb", {"runs"}),
        ("opacus", {"training"}),
        ("scanpy", set()),
    ],
)
def test_libraries_stay_in_their_place(library: str, homes: set[str]) -> None:
    users = {home(path) for path in FILES if any(n.split(".")[0] == library for n in imports(path))}
    assert users == homes


def functions(path: Path) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef))


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(SRC)): len(path.read_text().splitlines()) for path in FILES}
    assert max(lengths.values()) <= 200, lengths


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_functions_are_short_and_take_few_parameters(path: Path) -> None:
    """Settings of what a configuration makes are no parameters to remember: they are named where they are given."""
    for function in functions(path):
        assert function.end_lineno - function.lineno < 30, function.name
        given = [a.arg for a in (*function.args.posonlyargs, *function.args.args) if a.arg not in ("self", "cls")]
        settings = path.parent.name == "models" and function.name == "__init__"
        assert settings or len(given) <= 6, function.name
        assert settings or len(given) + len(function.args.kwonlyargs) <= 7, function.name


@pytest.mark.parametrize("room", sorted(path.parent for path in SRC.rglob("__init__.py")), ids=lambda p: p.name)
def test_every_room_says_what_it_is_for(room: Path) -> None:
    said = ast.get_docstring(ast.parse((room / "__init__.py").read_text()))
    assert said
    assert len(said.splitlines()) == 1

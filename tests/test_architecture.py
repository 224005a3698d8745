"""The house keeps its shape: imports point down, and what belongs in one place stays there."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src/scfl_green"
# From the ground up; a room imports from floors below its own, and from itself.
FLOORS = [
    ["errors"],
    ["files"],
    ["models", "security"],
    ["data", "energy"],
    ["training"],
    ["federated"],
    ["runs"],
    ["analysis"],
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
        ("flwr", {"federated"}),
        ("codecarbon", {"energy"}),
        ("hydra", {"runs", "analysis"}),
        ("wandb", {"runs"}),
        ("opacus", {"training"}),
        ("scanpy", set()),
    ],
)
def test_libraries_stay_in_their_place(library: str, homes: set[str]) -> None:
    users = {home(path) for path in FILES if any(n.split(".")[0] == library for n in imports(path))}
    assert users == homes


def lines_of_code(path: Path) -> int:
    """Lines that hold code: neither blank nor comment nor docstring."""
    text = path.read_text()
    prose = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            prose |= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = enumerate(text.splitlines(), start=1)
    return sum(1 for number, line in lines if line.strip() and line.strip()[0] != "#" and number not in prose)


def test_files_are_short() -> None:
    lengths = {str(path.relative_to(SRC)): len(path.read_text().splitlines()) for path in FILES}
    assert max(lengths.values()) <= 200, lengths

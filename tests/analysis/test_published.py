"""The published pages are what the one command makes of the kept records."""

import re
from pathlib import Path

import pytest
from benchmarks.results import DOCS, build
from matplotlib.testing.compare import compare_images

from conftest import ROOT


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    build(folder := tmp_path_factory.mktemp("docs"))
    return folder


def test_the_tables_are_what_the_records_give(rebuilt: Path) -> None:
    assert (rebuilt / "results.md").read_text() == (DOCS / "results.md").read_text()


def test_the_figures_are_what_the_records_give(rebuilt: Path) -> None:
    made, kept = ({path.name for path in (folder / "figures").glob("*.png")} for folder in (rebuilt, DOCS))
    assert made == kept
    for name in sorted(made):
        # freetype draws letters a little differently from build to build
        assert compare_images(str(DOCS / "figures" / name), str(rebuilt / "figures" / name), tol=5) is None


def test_every_picture_of_the_manual_is_there() -> None:
    for page in (ROOT / "README.md", *DOCS.glob("*.md")):
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"

"""The published pages are what the one command makes of the kept records."""

import re
from pathlib import Path

import pytest
from benchmarks.results import DOCS, build, text
from matplotlib.testing.compare import compare_images

from conftest import ROOT


def test_the_tables_are_what_the_records_give() -> None:
    assert text() == (DOCS / "results.md").read_text()


@pytest.mark.slow
def test_the_figures_are_what_the_records_give(tmp_path: Path) -> None:
    build(rebuilt := tmp_path)
    made, kept = ({path.name for path in (folder / "figures").glob("*.png")} for folder in (rebuilt, DOCS))
    assert made == kept
    for name in sorted(made):
        # freetype draws letters a little differently from build to build
        assert compare_images(str(DOCS / "figures" / name), str(rebuilt / "figures" / name), tol=5) is None


def test_every_picture_of_the_manual_is_there() -> None:
    for page in (ROOT / "README.md", *DOCS.glob("*.md")):
        for target in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"

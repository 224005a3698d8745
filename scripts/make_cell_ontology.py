"""Make the embedded table of the Cell Ontology: python scripts/make_cell_ontology.py

Needs pip install cellxgene-ontology-guide. A line a cell type: its number, and those of the types that it is a kind of,
one step up.
"""

import gzip
from pathlib import Path

from cellxgene_ontology_guide.ontology_parser import OntologyParser

TARGET = Path(__file__).parents[1] / "src/scfl_green/data/packaged/cell_ontology.txt.gz"


def table() -> str:
    parser = OntologyParser()
    version = parser.cxg_schema.supported_ontologies["CL"]["version"]
    lines = [f"# Cell Ontology {version}, https://obofoundry.org/ontology/cl.html, CC BY 4.0; is-a relations alone"]
    for term in sorted(parser.get_term_descendants("CL:0000000")):
        lines.append(" ".join(name.removeprefix("CL:") for name in (term, *sorted(parser.get_term_parents(term)))))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    TARGET.write_bytes(gzip.compress(table().encode(), mtime=0))

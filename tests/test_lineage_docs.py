"""docs/lineage.md tells the truth: its code is that of the files it names, its numbers are those of the tables."""

import re
from pathlib import Path

import pytest

import hsvdet
from hsvdet.catalogue import ROWS

ROOT = Path(hsvdet.__file__).parents[2]
STORY = (ROOT / "docs/lineage.md").read_text(encoding="utf-8")
_, *PARTS = re.split(r"^## ", STORY, flags=re.M)
SECTIONS = {part.partition("\n")[0]: part for part in PARTS}


@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_has_a_paper_an_equation_and_code_that_is_in_the_file_it_names(name):
    section = SECTIONS[name]
    files = re.findall(r"\]\(\.\./(src/hsvdet/[\w/]+\.py)\)", section)
    sources = [without_spaces((ROOT / file).read_text(encoding="utf-8")) for file in files]
    assert "https://arxiv.org/abs/" in section and re.search(r"^    \S", section, re.M)
    (code,) = re.findall(r"```python\n(.*?)```", section, re.S)
    for piece in code.split("...\n"):
        found = any(without_spaces(piece) in source for source in sources)
        assert found, f"{files} have no such lines any more:\n{piece}"


def without_spaces(code):
    """Lines are broken where they fit, in a document elsewhere than in a method."""
    return "".join(code.split()).replace(",)", ")")


def test_every_family_of_query_models_has_its_section():
    assert set(SECTIONS) == {row.family for row in ROWS.values()} - {"YOLOv8", "HSV-DET", "HSG-Det"}


def test_numbers_are_those_of_the_tables():
    """Parameters as counted, AP as the table of models has it from the papers."""
    zoo = (ROOT / "docs/zoo.md").read_text(encoding="utf-8")
    rows = re.findall(r"^`([\w-]+)`: ([\d.]+) M parameters(?:, AP ([\d.]+))?\.$", STORY, re.M)
    assert len(rows) >= len(SECTIONS)
    for name, millions, ap in rows:
        assert f"{ROWS[name].parameters / 1e6:.1f}" == millions, name
        (row,) = (line for line in zoo.splitlines() if line.startswith(f"| `{name}` | 800x") or
                  line.startswith(f"| `{name}` | 640x"))  # fmt: skip
        assert row.split(" | ")[-2].strip() == ap, row
    for line in re.findall(r"^\| \[.*", STORY, re.M):
        title, ap = re.search(r"\(#([\w-]+)\)", line)[1], line.split("|")[-2].strip()
        (section,) = (part for name, part in SECTIONS.items() if name.lower().replace(" ", "-") == title)
        assert not ap or f"AP {ap}." in section, line

"""Every Python block of the README and the documentation runs, and their lists are complete.

The blocks of a page share their names.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jca_fast.ops import backends
from jca_fast.ops.library import OPS

ROOT = Path(__file__).resolve().parents[1]
ELSEWHERE = ("migrating.md", "videos.md")  # run by tests that prepare what they need
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
    if page.name not in ELSEWHERE and BLOCK.search(page.read_text(encoding="utf-8"))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_code_of_a_page_runs(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a block may write files
    text = page.read_text(encoding="utf-8")
    names: dict[str, object] = {}
    for block in BLOCK.finditer(text):
        line = text.count("\n", 0, block.start(1))
        code = "\n" * line + block.group(1)  # an error names the line of the page
        exec(compile(code, str(page), "exec"), names)


def test_there_are_pages_with_code():
    assert len(PAGES) > 4


@pytest.mark.parametrize(
    ("page", "backend"),
    [("cpu-kernels.md", "cpu"), ("cuda-kernels.md", "cuda"), ("kernels.md", "triton")],
)
def test_the_table_of_files_is_complete(page, backend):
    """Files named after an op may be left out: their names say what they contain."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    table = text.partition("\n## Files\n")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = {name.rstrip("/") for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    files = {path.name for path in (ROOT / "kernels" / backend).iterdir()} - {"__pycache__"}
    missing = {name for name in files - named if not name.startswith(OPS)}
    assert not missing, f"docs/{page}, table of files: it lacks {missing}"
    assert named <= files, f"docs/{page}, table of files: there is no {named - files}"


def test_the_table_of_backends_is_complete():
    text = (ROOT / "docs" / "backends.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == backends.names()

"""The import layers of pyproject.toml hold, and no module imports kernels when it is imported."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def imported(source: str) -> set[str]:
    """The modules that a file imports when it is imported: functions import later."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module or ''}.{alias.name}" for alias in node.names}
    return found


def reaches_kernels(source: str) -> bool:
    parts = {part for name in imported(source) for part in name.split(".")}
    return "kernels" in parts


def test_the_package_imports_no_kernels():
    """import-linter knows them as ``kernels``, the installed package as ``jca_fast.kernels``."""
    files = list((ROOT / "jca_fast").rglob("*.py"))
    assert len(files) > 50
    assert [str(f) for f in files if reaches_kernels(f.read_text())] == []
    assert reaches_kernels("from jca_fast.kernels import triton")
    assert reaches_kernels("from ..kernels.cpu import problem")
    assert not reaches_kernels("def f():\n    from ..kernels import cpu")


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("importlinter", reason="import-linter is not installed")
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)


def test_layers_hold():
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_modules_import_each_other_in_a_circle():
    """Imports inside functions count, those for type checkers do not."""
    grimp = pytest.importorskip("grimp", reason="import-linter is not installed")
    graph = grimp.build_graph("jca_fast", exclude_type_checking_imports=True, cache_dir=None)
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    assert len(imports) > 100
    TopologicalSorter(imports).prepare()  # a CycleError names the circle


def test_a_new_backend_may_not_import_another(tmp_path):
    """The contract takes every folder of kernels, so that a new one needs no line in it."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in ("jca_fast", "kernels"):
        ignored = shutil.ignore_patterns("*.so", "*.h", "*.cpp", "__pycache__")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=ignored)
    (tmp_path / "kernels" / "toy").mkdir()
    (tmp_path / "kernels" / "toy" / "__init__.py").write_text("from kernels.cpu import native\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "kernels.toy is not allowed to import kernels.cpu" in done.stdout

"""The build: instruction sets stay apart, and a machine without a compiler still installs."""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(
    not (shutil.which("cmake") and shutil.which("c++") and shutil.which("nm")),
    reason="no build tools",
)
def test_no_symbol_of_an_instruction_set_can_be_merged(tmp_path):
    """The linker may merge weak symbols: AVX-512 code would then run on any processor."""
    level = (
        "v4" if platform.machine() in ("x86_64", "AMD64") else "baseline"
    )  # all levels are one source
    configure = ["-S", str(ROOT), "-B", str(tmp_path), "-DCMAKE_CXX_FLAGS_RELEASE=-O0"]
    for command in (configure, ["--build", str(tmp_path), "--target", f"jca_cpu_{level}"]):
        subprocess.run(["cmake", *command], check=True, capture_output=True)
    (built,) = tmp_path.rglob("isa.cpp.o")
    symbols = subprocess.run(
        ["nm", "-C", str(built)], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    assert any("score_tile" in line for line in symbols)
    assert not [line for line in symbols if line[17:18] in ("W", "V", "u")]


@pytest.mark.skipif(not (shutil.which("cmake") and shutil.which("c++")), reason="no build tools")
@pytest.mark.parametrize(
    ("compiler", "text"),
    [
        ("false", "CUDA kernels not built: nvcc fails"),
        ("", "CUDA kernels not built: nvcc not found"),
    ],
)
def test_without_a_working_nvcc_one_line_says_so_and_the_cpu_kernels_are_built(
    tmp_path, compiler, text
):
    found = shutil.which("nvcc")
    folders = [str(Path(found).parent)] if found else []
    options = [f"-DJCA_NVCC={shutil.which(compiler)}"] if compiler else []
    options.append(f"-DCMAKE_IGNORE_PATH={';'.join([*folders, '/usr/local/cuda/bin'])}")
    command = ["cmake", "-S", str(ROOT), "-B", str(tmp_path), *options]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert [line for line in done.stdout.splitlines() if "jca_fast" in line] == [
        next(line for line in done.stdout.splitlines() if text in line)
    ]
    command = ["cmake", "--build", str(tmp_path), "--target", "help"]
    targets = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert "jca_cpu" in targets
    assert "jca_cuda" not in targets


@pytest.mark.skipif(
    not importlib.util.find_spec("setuptools")
    or not importlib.util.find_spec("setuptools.command.bdist_wheel"),
    reason="needs the setuptools of a build environment",
)
def test_without_a_compiler_the_package_installs_and_says_so(tmp_path):
    tree = tmp_path / "tree"
    kept = (
        "setup.py",
        "pyproject.toml",
        "CMakeLists.txt",
        "README.md",
        "LICENSE",
        "jca_fast",
        "kernels",
    )
    tree.mkdir()
    for name in kept:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(
                source, tree / name, ignore=shutil.ignore_patterns("lib", "__pycache__")
            )
        elif source.is_file():
            shutil.copy(source, tree / name)
    environment = {**os.environ, "PATH": str(tmp_path / "nothing"), "CXX": ""}
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "bdist_wheel",
        "--dist-dir",
        str(tmp_path / "dist"),
    ]
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    notices = [line for line in done.stdout.splitlines() if line.startswith("jca_fast:")]
    assert notices == [
        "jca_fast: native CPU kernels not built (no C++ compiler found); "
        "the package runs on plain PyTorch"
    ]
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")


@pytest.mark.skipif(not shutil.which("c++"), reason="no compiler")
def test_an_op_without_a_schema_is_named_by_the_compiler(tmp_path):
    shutil.copytree(ROOT / "kernels" / "cpu", tmp_path / "cpu")
    header = tmp_path / "cpu" / "binding" / "joint_affinity.h"
    before, _, schema = header.read_text().partition("template <>\nconstexpr Schema")
    header.write_text(before + schema.partition("};\n")[2])
    command = [
        "c++",
        "-std=gnu++17",
        "-fsyntax-only",
        str(tmp_path / "cpu" / "binding" / "ops.cpp"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    words = "the op joint_affinity has no schema: kernels/cpu/binding/joint_affinity.h must define"
    assert done.returncode
    assert words in done.stderr


@pytest.mark.skipif(
    not (shutil.which("cmake") and shutil.which("c++") and importlib.util.find_spec("setuptools")),
    reason="no build tools",
)
def test_a_checkout_whose_kernels_do_not_compile_is_not_installed(tmp_path):
    """pip would hide the output of a build that succeeds."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "jca_fast", tmp_path / "jca_fast", ignore=shutil.ignore_patterns("lib"))
    (tmp_path / "kernels").mkdir()
    (tmp_path / "CMakeLists.txt").write_text(BROKEN)
    (tmp_path / "broken.cpp").write_text('static_assert(false, "no schema");')
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode
    assert re.search(r"kernels not built \(.*broken.cpp.* error: .*no schema", done.stderr)


BROKEN = """
cmake_minimum_required(VERSION 3.18)
project(broken LANGUAGES CXX)
add_library(broken SHARED broken.cpp)
"""


def test_without_the_library_the_reference_serves(tmp_path):
    """A missing library is a stated reason; "auto" then takes plain PyTorch."""
    code = (
        "import jca_fast.kernels.cpu.native as native, pathlib\n"
        f"native.library_path = lambda: pathlib.Path({str(tmp_path / 'libjca_cpu.so')!r})\n"
        "import torch; from jca_fast.functional import explain, tanh_attention\n"
        "t = torch.ones(1, 2, 3); print(explain(t, t, t)); tanh_attention(t, t, t, 1.0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "libjca_cpu.so is not built" in done.stdout
    assert "reference  chosen" in done.stdout


SOURCE_FOLDER = """
import sys, warnings
sys.meta_path = [f for f in sys.meta_path if "editable" not in repr(f)]
import torch
from jca_fast.functional import explain, tanh_attention
t = torch.ones(1, 2, 3)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        tanh_attention(t, t, t, 1.0)
    print(explain(t, t, t))
print(*[w.message for w in caught], sep="\\n")
"""


def test_python_started_in_the_source_folder_says_once_that_it_has_no_kernels(tmp_path):
    """A source folder before site-packages hides the kernels of an installed wheel."""
    shutil.copytree(ROOT / "jca_fast", tmp_path / "jca_fast", ignore=shutil.ignore_patterns("lib"))
    code = [sys.executable, "-c", SOURCE_FOLDER]
    done = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "reference  chosen" in done.stdout
    warning = f"jca_fast was imported from the source folder {tmp_path}, which hides the kernels"
    assert done.stdout.count(warning) == 1


@pytest.mark.skipif(
    not (ROOT / ".git").exists() or not importlib.util.find_spec("setuptools"),
    reason="needs git's list of files and the setuptools of a build environment",
)
def test_the_sdist_holds_every_file_of_the_repository(tmp_path):
    """So that it can run its own tests."""
    tree = tmp_path / "tree"
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = {name for name in listed.stdout.splitlines() if (ROOT / name).is_file()}
    for name in files:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name)
    command = [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", str(tmp_path)]
    subprocess.run(command, cwd=tree, check=True, capture_output=True)
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert not files - names

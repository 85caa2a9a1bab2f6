"""Builds libjca_cpu with CMake into jca_fast/lib; all metadata is in pyproject.toml.

Without a C++ compiler the installation still succeeds: the package then runs on plain PyTorch.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
LIBRARY = Path("jca_fast/lib")


def has_compiler() -> bool:
    """Whether CMake will find a C++ compiler."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "c++"), "g++", "clang++"))


def build_tools() -> list[str]:
    """The tools that an isolated build has to fetch: CMake and Ninja, where there are none."""
    if not has_compiler():
        return []
    tools = [] if shutil.which("cmake") else ["cmake>=3.18"]
    return tools if shutil.which("ninja") or shutil.which("make") else [*tools, "ninja"]


class CMakeBuild(build_ext):
    """Runs CMake; the library goes into the source tree, and from there into the wheel."""

    def run(self) -> None:
        """Build, and say so in one line where that is not possible."""
        if problem := self.build_library():
            fallback = "the package runs on plain PyTorch"
            print(f"jca_fast: native CPU kernels not built ({problem}); {fallback}", flush=True)
            shutil.rmtree(ROOT / LIBRARY, ignore_errors=True)
        elif not self.inplace:
            shutil.copytree(ROOT / LIBRARY, Path(self.build_lib) / LIBRARY, dirs_exist_ok=True)

    def build_library(self) -> str | None:
        """Configure and compile; None, or what went wrong."""
        if not has_compiler():
            return "no C++ compiler found"
        if not shutil.which("cmake"):
            return "no cmake found"
        # A kept folder names tools of a build environment that is gone, or another source tree.
        folder = Path(self.build_temp).resolve()
        shutil.rmtree(folder, ignore_errors=True)
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        jobs = str(os.cpu_count() or 1)
        for command in (
            ["-S", str(ROOT), "-B", str(folder), *generator],
            ["--build", str(folder), "--parallel", jobs],
        ):
            result = subprocess.run(
                ["cmake", *command], capture_output=True, text=True, check=False
            )
            if result.returncode:
                print(result.stdout + result.stderr, flush=True)
                return f"cmake {command[0]} failed, see above"
        return None

    def get_outputs(self) -> list[str]:
        """Nothing for setuptools to move about: :meth:`run` puts the library where it belongs."""
        return []

    def copy_extensions_to_source(self) -> None:
        """The library is in the source tree already."""


class PlatformWheel(bdist_wheel):
    """One wheel for every Python and every torch: the library needs neither of them to build."""

    def get_tag(self) -> tuple[str, str, str]:
        """py3-none-<platform>, or py3-none-any where nothing was compiled."""
        platform = super().get_tag()[2]
        return "py3", "none", platform if has_compiler() else "any"


setup(
    packages=[
        *find_packages(include=["jca_fast", "jca_fast.*"]),
        "jca_fast.kernels",
        *(f"jca_fast.kernels.{name}" for name in find_packages("kernels")),
    ],
    package_dir={"jca_fast": "jca_fast", "jca_fast.kernels": "kernels"},
    ext_modules=[Extension("jca_fast.lib.jca_cpu", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": PlatformWheel},
    setup_requires=build_tools(),
    zip_safe=False,
)

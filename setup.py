"""Builds libjca_cpu with CMake into jca_fast/lib; all metadata is in pyproject.toml.

Without a C++ compiler the installation still succeeds: the package then runs on plain PyTorch. With
one, kernels that do not compile are an error of ``pip install -e``.
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
        """Build, and say so in one line where that is not possible.

        pip hides the output of a build that succeeds, so that of a checkout (-e) fails where the
        kernels do not compile.
        """
        missing = self.missing_tool()
        problem = missing or self.build_library()
        if not problem:
            if not self.inplace:
                shutil.copytree(ROOT / LIBRARY, Path(self.build_lib) / LIBRARY, dirs_exist_ok=True)
            return
        shutil.rmtree(ROOT / LIBRARY, ignore_errors=True)
        text = f"jca_fast: native CPU kernels not built ({problem})"
        if self.inplace and not missing:
            raise SystemExit(f"{text}; an installation without -e goes on with plain PyTorch")
        print(f"{text}; the package runs on plain PyTorch", flush=True)

    def missing_tool(self) -> str:
        """The tool that this machine lacks for the build; "" where it has all."""
        if not has_compiler():
            return "no C++ compiler found"
        return "" if shutil.which("cmake") else "no cmake found"

    def build_library(self) -> str:
        """Configure and compile; "", or what went wrong."""
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
            for line in result.stdout.splitlines():
                if "jca_fast: " in line:  # what CMake says of the CUDA kernels
                    print(line.removeprefix("-- "), flush=True)
            if result.returncode:
                output = result.stdout + result.stderr
                print(output, flush=True)
                errors = [line for line in output.splitlines() if " error: " in line]
                return errors[0] if errors else f"cmake {command[0]} failed, see above"
        return ""

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

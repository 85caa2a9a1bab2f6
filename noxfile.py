"""One wheel under every supported version of Python and torch.

    nox                                          # builds the wheel and the sdist, then all pairs
    nox -s "installed-3.12(torch='2.14')"        # one pair

Each pair has an environment without the source: the wheel, and the tests of the sdist. torch comes
without CUDA's libraries (.ci/without_cuda.py): an environment takes 1.7 GB in place of 6, and is
deleted once it has passed.
"""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import nox

PYTHONS = ("3.11", "3.12", "3.13")
TORCHES = ("2.10", "2.11", "2.12", "2.13", "2.14")
ROOT = Path(__file__).resolve().parent
DIST = ROOT / ".nox" / "built"
OF_TORCH = ["filelock", "fsspec", "jinja2", "networkx", "setuptools<82", "sympy"]
OF_THE_TESTS = ["hypothesis", "pytest", "pytest-timeout", "tensorboard"]
CORE = ["golden", "cpu_kernels", "contract", "modules", "data_dataset", "training_run"]

nox.options.default_venv_backend = "venv"
nox.options.sessions = ["installed"]


@nox.session
def dist(session: nox.Session) -> None:
    """Build the wheel and the sdist of all pairs; `nox -- built` takes those that are there."""
    if "built" in session.posargs:
        return
    shutil.rmtree(DIST, ignore_errors=True)
    session.install("build")
    session.run("python", "-m", "build", "--outdir", str(DIST), str(ROOT), silent=True)


@nox.session(python=PYTHONS, requires=["dist"])
@nox.parametrize("torch", TORCHES)
def installed(session: nox.Session, torch: str) -> None:
    """Install the wheel and use it: import, command line, kernels, the core of the tests."""
    session.install("--no-deps", f"torch=={torch}.*")
    session.install(*OF_TORCH, *OF_THE_TESTS, str(next(DIST.glob("*.whl"))))
    packages = session.run(
        "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", silent=True
    ).strip()
    session.run("python", str(ROOT / ".ci" / "without_cuda.py"), packages)
    session.chdir(tests(session))
    session.run("python", str(ROOT / ".ci" / "installed.py"), str(DIST / "bits"))
    session.run("jca-fast", "doctor")
    session.run("python", "-m", "pytest", "-q", *(f"tests/test_{name}.py" for name in CORE))
    session.chdir(ROOT)
    shutil.rmtree(session.virtualenv.location)


def tests(session: nox.Session) -> Path:
    """The sdist, unpacked beside the reference data and without the package."""
    folder = Path(session.create_tmp()) / "sdist"
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(next(DIST.glob("*.tar.gz"))) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    for package in ("jca_fast", "kernels"):
        shutil.rmtree(unpacked / package)
    if (ROOT.parent / "shared").is_dir():
        (folder / "shared").symlink_to(ROOT.parent / "shared")
    return unpacked

"""Lets a CUDA build of torch run on the CPU without the gigabytes of CUDA's libraries.

    python without_cuda.py FOLDER      # site-packages with torch, installed by pip --no-deps

For each library that torch's own ones need and that is not there, it compiles one with the same
name and symbols beside them. Every function in it answers 35, which is CUDA's "the driver is too
old": torch.cuda.is_available() is then false. A CPU build of torch needs none, and stays as it is.
Needs cc, nm and readelf.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

OF_THE_SYSTEM = re.compile(r"ld-linux|lib(c|m|dl|rt|pthread|stdc\+\+|gcc_s|gomp|python)[-.0-9]")
Missing = dict[str, dict[str, list[str]]]


def output(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def versions(library: Path) -> dict[str, set[str]]:
    """The symbol versions that a library asks of each library that it needs."""
    names = re.findall(r"NEEDED.*\[(.*)\]", output("readelf", "-d", library))
    found: dict[str, set[str]] = {name: set() for name in names}
    of = None
    for line in output("readelf", "-VW", library).splitlines():
        if match := re.search(r"File: (\S+)", line):
            of = match[1]
        elif (match := re.search(r"Name: (\S+) +Flags", line)) and of in found:
            found[of].add(match[1])
    return found


def missing(folder: Path) -> Missing:
    """Library -> version -> functions that the libraries of a folder need and nobody has.

    Functions without a version have the version "", in every library: nothing names their own.
    """
    needed: dict[str, set[str]] = defaultdict(set)
    undefined: set[str] = set()
    defined: set[str] = set()
    for library in folder.glob("*.so"):
        for name, of in versions(library).items():
            if not (folder / name).exists() and not OF_THE_SYSTEM.match(name):
                needed[name] |= of
        for line in output("nm", "-D", library).splitlines():
            kind, symbol = line.split()[-2:]
            (undefined if kind == "U" else defined).add(symbol)
    found: Missing = {name: {of: [] for of in ofs} for name, ofs in needed.items()}
    homes = {of: functions for ofs in found.values() for of, functions in ofs.items()}
    homes[""] = []
    for ofs in found.values():
        ofs[""] = homes[""]
    for symbol in sorted(undefined - defined):
        function, _, of = symbol.partition("@")
        if of in homes and not (of == "" and function.startswith(("Py", "_Py", "_Z"))):
            homes[of].append(function)
    return found


def stand_in(path: Path, functions: dict[str, list[str]], folder: Path) -> None:
    """Compile a library whose functions all answer 35."""
    source, script = folder / "source.c", folder / "versions"
    names = [name for group in functions.values() for name in group]
    source.write_text("".join(f"int {name}(void) {{ return 35; }}\n" for name in names))
    groups = {of: "".join(f"{n}; " for n in group) for of, group in functions.items() if of}
    script.write_text("".join(f"{of} {{ {group} }};\n" for of, group in groups.items()))
    flags = ["-w", "-shared", "-nostdlib", "-fPIC", "-fno-builtin", f"-Wl,-soname,{path.name}"]
    if groups:
        flags.append(f"-Wl,--version-script={script}")
    output("cc", *flags, "-o", path, source)


def main() -> None:
    """Fill the folder of torch's libraries."""
    libraries = Path(sys.argv[1]) / "torch" / "lib"
    found = missing(libraries)
    with tempfile.TemporaryDirectory() as folder:
        for name, functions in found.items():
            stand_in(libraries / name, functions, Path(folder))
    print(f"{len(found)} libraries of CUDA stood in for")


if __name__ == "__main__":
    main()

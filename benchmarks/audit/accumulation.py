"""Reads from a kernel's tile code where its matrix instructions accumulate.

Tensor cores truncate their sums toward zero. In the exact tier each product therefore starts from
zero, and a float32 adder adds it to the sum so far. Triton would fold such an addition back into
the product if it saw one.
"""

from __future__ import annotations

import re

DEFINITION = re.compile(r"^(%[\w.]+)(?::\d+)? = (\S+) (.*)")
OPERAND = re.compile(r"%[\w.]+(?:#\d+)?")
PRODUCT = ("tt.dot", "ttng.warp_group_dot")
Definitions = dict[str, tuple[str, str]]
"""The operation that defines each value, and its operands as text."""


def folded(ttgir: str) -> list[str]:
    """The names of accumulators that hold more than zero or earlier parts of the same product.

    Names are looked up line by line, because neighbouring regions reuse names.
    """
    definitions: Definitions = {}
    allocated: dict[str, int] = {}  # accumulators of sm_100 in tensor memory: their indentation
    stored: dict[str, str] = {}
    found = []
    for text in ttgir.splitlines():
        line = text.strip()
        indent = len(text) - len(text.lstrip())
        names = OPERAND.findall(line)
        match = DEFINITION.match(line)
        if match:
            definitions[match[1]] = (match[2], match[3])
        if match and match[2] in PRODUCT:
            if not _starts_from_zero(names[3], definitions):
                found.append(names[3])
        elif match and match[2] == "ttng.tmem_alloc":
            allocated[names[0]] = indent
            stored[names[0]] = names[1] if len(names) > 1 else ""
        elif line.startswith("ttng.tmem_store"):
            stored[names[1]] = names[0]
        elif line.startswith("ttng.tc_gen5_mma"):
            accumulator = names[2]
            keeps = names[3] != "%false"
            written = stored.get(accumulator)
            dirty = keeps and written and not _starts_from_zero(written, definitions)
            if dirty or allocated.get(accumulator) != indent:
                found.append(accumulator)
    return found


def _starts_from_zero(name: str, definitions: Definitions) -> bool:
    """Whether a value is zero or the result of another product, through waits and layouts."""
    base, _, index = name.partition("#")
    kind, rest = definitions.get(base, ("", ""))
    if kind in PRODUCT:
        return True  # its own accumulator is checked too
    if kind == "ttng.warp_group_dot_wait":
        return _starts_from_zero(OPERAND.findall(rest)[int(index or 0)], definitions)
    if kind == "ttg.convert_layout":
        return _starts_from_zero(OPERAND.findall(rest)[0], definitions)
    return kind == "arith.constant" and rest.startswith("dense<0.000000e+00>")

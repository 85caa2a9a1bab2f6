"""An executor of PTX on the CPU: it checks compiled GPU kernels where there is no GPU.

It is a checker, not an emulator of a chip. It executes the PTX that Triton and nvcc compile, all
lanes of many CTAs at once in numpy, and looks for faults that a run on a GPU may hide: accesses out
of bounds, races between lanes, warps and CTAs, uninitialised memory, asynchronous copies and wgmma
operands used too early, instructions that never ran. It does not model speed. ``ptxas`` comes after
PTX: a fault in machine code stays invisible.

* ``parser.py`` reads PTX; ``formats.py`` has the number formats and the rounding of tensor cores.
* ``memory.py`` checks accesses; ``machine.py`` takes a launch, has the registers and decides which
  lanes run next.
* ``instructions.py`` lists the instructions of ``arithmetic.py``, ``transfers.py`` and
  ``tensor_cores.py``.
* ``triton_device.py`` takes the launches of the Triton kernels; ``cases.py`` runs every op.
* ``faults.py`` breaks kernels and the executor on purpose, to see that faults are found.

``python -m tests.ptx`` runs the cases of the test suite, and with ``--all`` every op in every tier,
with all tiles and dropout. Triton keeps compiled kernels in the folder ``TRITON_CACHE_DIR``.
"""

from . import arithmetic, tensor_cores, transfers  # noqa: F401  they register their instructions

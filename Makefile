# The checks of this repository. `make help` lists them; .ci/run calls them in a fresh environment.
.PHONY: $(shell sed -n 's/^\([a-z]*\):.*##.*/\1/p' $(MAKEFILE_LIST))
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

lint:  ## style, format, types, import layers, file endings, large files
	pre-commit run --all-files

test:  ## the test suite
	pytest -q

demo:  ## plant a small data set, train on it, draw pictures into runs/demo
	jca-fast demo

benchmarks:  ## a smoke run of every benchmark; `pytest benchmarks/ --benchmark-only` measures
	pytest benchmarks/ --benchmark-only -q --smoke

interpreted:  ## the Triton kernels under the interpreter (needs the extra "triton")
	pytest -q -rs $(filter-out tests/test_triton_cuda.py,$(wildcard tests/test_triton_*.py tests/test_gpu_*.py))

executed:  ## the compiled Triton kernels, executed on the CPU (needs the extra "triton")
	pytest -q -rs $(wildcard tests/test_ptx_*.py)

nightly:  ## the same for every op in every tier, with all tiles
	python -m tests.ptx --all
	python -m tests.ptx.cuda_calls

audit:  ## compile the GPU kernels for six chips, or ARCH=80,90, and read the machine code (extra "triton")
	python -m benchmarks.audit $(if $(ARCH),--arch $(ARCH))
	python -m benchmarks.audit.cuda

sanitize:  ## the native kernels under AddressSanitizer and UBSan; `.ci/sanitize thread` for ThreadSanitizer
	.ci/sanitize

hostile:  ## 20,000 hostile direct calls of the native kernels; the test suite draws 400
	python tests/hostile_calls.py

memory:  ## every command with too little memory: one line, nothing lost or left
	PYTHONPATH=tests python tests/memory_limits.py

sweep:  ## errors of 20,000 random calls beside plain PyTorch's; the test suite draws 500
	python tests/sweep.py

wheel:  ## build the wheel, audit it, and use it where no source is (needs the network)
	.ci/wheel

cpp:  ## build examples/cpp, and compare its bits with Python's for both forms (a minute or two)
	cmake -S examples/cpp -B build/cpp -DCMAKE_BUILD_TYPE=Release \
	  -DCMAKE_PREFIX_PATH="$$(python -c 'import torch; print(torch.utils.cmake_prefix_path)')" \
	  -DJCA_FAST="$$(python -c 'import jca_fast; print(jca_fast.__path__[0])')"
	cmake --build build/cpp
	for form in paper released; do \
	  python examples/cpp/package.py build/cpp/$$form --form $$form && \
	  (cd build/cpp/$$form && ../fuse model.pt2 inputs.pt outputs.pt) && \
	  python examples/cpp/package.py build/cpp/$$form --compare || exit 1; \
	done

docs:  ## build the documentation into site/, warnings as errors (needs the extra "docs")
	mkdocs build --strict --quiet

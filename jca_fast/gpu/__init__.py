"""Proofs of the GPU kernels: a static audit without a device, a numerical check on one, and what "auto" may trust."""

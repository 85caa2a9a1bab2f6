"""Kernels, one folder per backend; none imports another. Rows of :mod:`jca_fast.ops.backends`
point to them.
"""

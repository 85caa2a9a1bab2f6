"""The hot paths as registered PyTorch operators: one page per op, their reference, and the table of
backends.
"""

"""Measurements: ``jca-fast bench``, and the timing code that the suites in benchmarks/ share."""

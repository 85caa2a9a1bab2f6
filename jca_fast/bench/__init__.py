"""Measurements: ``jca-fast bench``, and the measuring core that the suites in benchmarks/ share."""

"""Benchmarks: each runs the raw limit and Ensue in the same run, alternating, and says whether a goal is met.

`python -m benchmarks [NAME ...]`, or `make bench ARGS="pipeline"`. See docs/explanation/performance.md.
"""

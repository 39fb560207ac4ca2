"""Ensue against other Python libraries that do the same work, each called as its own documentation says.

`make bench-peers`, or `python -m benchmarks.peers [SIDE ...]` once `.venv-peers` is there.
"""

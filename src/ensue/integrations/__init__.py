"""Faces to other frameworks. Each module needs its own extra, e.g. `pip install "ensue[fastapi]"`."""

"""One business transaction across services, from what their databases and the log still have.

`gather.py` asks, `facts.py`, `sagas.py` and `sequence.py` say what follows from the answers; faces show it.
"""

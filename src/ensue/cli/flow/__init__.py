"""`ensue flow`: one business transaction across services, from what their databases and the log still have.

`gather.py` asks, `facts.py` and `sequence.py` say what follows from the answers, `text.py` and `mermaid.py` show it.
"""

"""Event-sourced aggregates: state that is the fold of its own events, which are published as they are appended.

What is declared (`aggregate`), what the database holds of it (`kind`), and the aggregates of one step (`streams`). See
docs/adr/0046.
"""

"""A payment provider: a stranger to the shop, spoken to over HTTP alone, and no better than real ones.

`python -m shop.provider --port 8090 --book provider.db`. It is slow, at times away for a moment, does what it was asked
and does not say so, or says so when nobody listens any more. What it does once is what came under one Idempotency-Key.
"""

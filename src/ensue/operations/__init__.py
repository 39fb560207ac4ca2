"""Seeing and steering a service from beside it: what every face (command line, console, API) shows and decides.

Plain functions over the service's own database and its broker. They print nothing and ask nobody; what they return is
made of Structs, which msgspec writes as JSON. They work while the service runs, hangs or is down (docs/adr/0017), and
each decision is written down in the transaction that takes it (docs/adr/0049).
"""

"""The reference shop: three services, each with its own database, that know each other by events alone; or four, where
a saga places the orders and takes the money (`settings.py` says which).

`contracts.py` holds those events, `commands.py` what the saga asks for; `money.py` and `times.py` say how amounts and
moments are written down. A service imports these and `ensue`, never another service. `provider` is a stranger to all.
"""

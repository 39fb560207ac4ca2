"""The reference shop: three services, each with its own database, that know each other by events alone.

`contracts.py` holds those events; `money.py` and `times.py` say how amounts and moments are written down. A service
imports these and `ensue`, never another service.
"""

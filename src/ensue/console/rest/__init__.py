"""The JSON API: each read model and each decision of `ensue.operations` as a resource (docs/adr/0054)."""

"""Sagas: durable business transactions, each an `async def` that is replayed from its journal. No I/O here.

The pure core: what is declared (`code`, `local`), what a function is given (`saga`), its replay (`replay`), what a row
holds (`instance`, `journal`, `undo`) and what becomes of it (`machine`). See docs/adr/0041.
"""

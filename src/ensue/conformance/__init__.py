"""One suite per port: every adapter passes it, ours and yours. Needs pytest and pytest-asyncio.

Subclass `broker.BrokerConformance` or `store.StoreConformance` in a test file; the subclass is the adapter's whole
test. That the suites can fail is shown in Ensue's repository: tests/conformance_mutants has adapters with one fault
each, and the suites reject them all.
"""

from __future__ import annotations

import pkgutil

import pytest

# So that a failing `assert` in a suite shows its values, as in a test file.
pytest.register_assert_rewrite(*(f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)))

"""Helpers for users' tests: services running together in one process, quiet awaited by a signal, no sleep.

    async with ensue.testing.run(orders, customers) as world:
        async with orders.step() as step:
            ...
        await world.settle()
"""

from ensue.testing.world import NotSettled, World, run

__all__ = ["NotSettled", "World", "run"]

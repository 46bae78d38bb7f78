"""
The Magic Hour API on this machine: no key, no credits, no network.

.. code-block:: python

    from magichour_provider.emulator import Emulator

    with Emulator() as emulator:
        print(emulator.url, emulator.connection_json)

It has its own copy of the vendor's rules, and imports nothing from the rest of the package. So a mistake in
the provider is not repeated here.
"""

from __future__ import annotations

from .threaded_server import Emulator

__all__ = ["Emulator"]

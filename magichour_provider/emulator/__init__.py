"""
The Magic Hour API on this machine: no key, no credits, no network.

.. code-block:: python

    from magichour_provider.emulator import Emulator

    with Emulator() as emulator:
        print(emulator.url, emulator.connection_json)

It states the vendor's rules a second time and imports nothing from the rest of the package: a mistake in the
provider is then not repeated here.
"""

from __future__ import annotations

from .threaded_server import Emulator

__all__ = ["Emulator"]

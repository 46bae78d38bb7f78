"""
An emulator of the Magic Hour API. It needs no account, no credits and no network.

.. code-block:: python

    from magichour_provider.emulator import Emulator

    with Emulator() as emulator:
        print(emulator.url, emulator.connection_json)

The emulator has its own copy of the vendor's rules, and imports nothing from the rest of the package. So it
does not repeat a mistake of the provider.
"""

from __future__ import annotations

from .threaded_server import Emulator

__all__ = ["Emulator"]

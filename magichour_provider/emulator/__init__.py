"""
The Magic Hour API on this machine: no key, no credits, no network.

.. code-block:: python

    from magichour_provider.emulator import Emulator

    with Emulator() as emu:
        print(emu.url, emu.connection_json)

It states the vendor's rules for itself and imports nothing from the rest of the package, so that a
mistake on one side does not agree with the same mistake on the other.
"""

from __future__ import annotations

from .handle import Emulator

__all__ = ["Emulator"]

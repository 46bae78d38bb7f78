"""
Airflow looks for a provider's example DAGs in a module named after its distribution: this one.

Without it, every Airflow component logs an error while ``[core] load_examples`` is on (apache/airflow#66305).
"""

from __future__ import annotations

from pathlib import Path

import magichour_provider

_package = Path(magichour_provider.__file__).parent
# In the wheel the folder is in the package; in a clone it stands beside it.
__path__ = [str(_package if (_package / "example_dags").is_dir() else _package.parent)]

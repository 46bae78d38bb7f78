"""Magic Hour's API. Nothing here imports Airflow, so it can be used without it."""

"""A task's way through Airflow: pay once, wait, collect."""

"""What importing a module costs each process that parses a DAG, above what Airflow's own import costs it."""

from __future__ import annotations

import importlib
import sys
import time
from functools import partial

from .harness import Goal, Options, fresh, goal_table, interleaved, resident_bytes
from .table import Table

TITLE = "Importing, above `from airflow.sdk import DAG, BaseOperator`"
OURS = "magichour_provider"
OPERATORS = f"{OURS}.operators"
A_DAG = "a DAG file that makes a `TalkingPhotoOperator`"
MODULES = {
    OPERATORS: OPERATORS,
    f"{OURS}.sensors": f"{OURS}.sensors",
    f"{OURS}.hooks": f"{OURS}.hooks",
    f"{OURS}.plugin": f"{OURS}.plugin",
    "Magic Hour SDK": "magic_hour",
    "http": "airflow.providers.http.operators.http",
    "fivetran": "fivetran_provider_async.operators",
    "openai": "airflow.providers.openai.operators.openai",
    "anthropic": "airflow.providers.anthropic.operators.batch",
}


def run(options: Options) -> list[Table]:
    cases = {what: partial(fresh, measure, module=module) for what, module in MODULES.items()}
    cases[A_DAG] = partial(fresh, measure, module=OPERATORS, make=True)
    found = interleaved(cases, rounds=1 if options.quick else 3)
    operators = found[OPERATORS]
    rows = [
        (
            what,
            f"{samples['modules'].median:.0f}",
            samples["megabytes"].show(1),
            samples["cpu"].beside(operators["cpu"]),
        )
        for what, samples in found.items()
    ]
    return [
        Table(
            "Importing, above `from airflow.sdk import DAG, BaseOperator`",
            ["", "modules", "MB", "CPU ms"],
            rows,
        ),
        goal_table(
            [
                Goal("operators: modules of ours", 5, operators["ours"], digits=0),
                Goal("operators: modules of third parties", 0, operators["third_party"], digits=0),
                Goal("operators: MB", 1, operators["megabytes"]),
                Goal("the DAG file: modules of third parties", 0, found[A_DAG]["third_party"], digits=0),
            ]
        ),
    ]


def measure(module: str, make: bool = False) -> dict[str, float]:
    """
    :param make: make an operator too, as DAG files do: it checks its arguments.
    """
    from airflow.sdk import DAG, BaseOperator

    with DAG("other"):
        BaseOperator(task_id="task")
    known, memory, cpu = set(sys.modules), resident_bytes(), time.process_time()
    imported = importlib.import_module(module)
    if make:
        with DAG("talking"):
            imported.TalkingPhotoOperator(
                task_id="video", image_file_path="/me.jpg", audio_file_path="/hello.mp3", output_path="/out/"
            )
    used = time.process_time() - cpu
    new = [name.partition(".")[0] for name in set(sys.modules) - known]
    return {
        "modules": len(new),
        "ours": new.count(OURS),
        "third_party": sum(name not in {OURS, "airflow", *sys.stdlib_module_names} for name in new),
        "megabytes": (resident_bytes() - memory) / 2**20,
        "cpu": used * 1000,
    }

#!/bin/sh
# Build the wheel and try it as a stranger would: in a clean Airflow, away from this folder.
set -eu
here=$(pwd)
rm -rf dist
"$here/.venv/bin/python" -m pip wheel -q --no-deps -w dist .
room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
python3 -m venv "$room/venv"
"$room/venv/bin/python" -m pip install -q --disable-pip-version-check -c requirements/demo.txt apache-airflow
"$room/venv/bin/python" -m pip install -q --disable-pip-version-check -c requirements/demo.txt "$(ls "$here"/dist/*.whl)"
export AIRFLOW_HOME="$room/airflow" AIRFLOW__CORE__LOAD_EXAMPLES=False
cd "$room"
airflow() { "$room/venv/bin/airflow" "$@" 2>/dev/null; }
airflow db migrate >/dev/null
airflow providers list -o plain | grep magichour
airflow providers hooks -o plain | grep magichour
airflow providers links -o plain | grep magichour
# Without its extra the emulator does not start, and says what to install.
{ "$room/venv/bin/python" -m magichour_provider.emulator --port 0 2>&1 || true; } | grep "pip install"
"$room/venv/bin/python" -m pip install -q --disable-pip-version-check -c "$here/requirements/demo.txt" \
	"$(ls "$here"/dist/*.whl)[emulator]"
"$room/venv/bin/python" -m magichour_provider.emulator --help | head -n 3
"$room/venv/bin/python" -m zipfile -l "$here"/dist/*.whl | awk 'NR > 1 {print $1}' | grep -v '/emulator/' | sort
echo "The wheel works in a clean Airflow $(airflow version)."

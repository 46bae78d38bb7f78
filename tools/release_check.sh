#!/bin/sh
# Is what would be published fit for it? Its metadata, its contents, its tests, and a stranger's first run with it: in a
# clean Airflow, away from this folder. ARGS chooses the tests that run in the unpacked sdist; REPOSITORY is the public
# address, which makes the README's links absolute.
set -eu
unset MAKEFLAGS # the make below takes other variables
here=$(pwd)
bin="$here/.venv/bin"
version=$("$bin/python" -c 'import magichour_provider; print(magichour_provider.__version__)')

grep -q "^## $version" CHANGELOG.md || { echo "CHANGELOG.md does not know $version"; exit 1; }
rm -rf dist
"$bin/uv" build -q --no-python-downloads
"$bin/twine" check --strict dist/*.whl dist/*.tar.gz # renders the README as a package index does

room=$(mktemp -d)
trap 'rm -rf "$room"' EXIT
{
    git ls-files magichour_provider airflow_provider_magichour.py
    git ls-files example_dags | sed 's#^#magichour_provider/#'
} | sort >"$room/ours"
"$bin/python" -m zipfile -l dist/*.whl | awk 'NR > 1 {print $1}' | grep -v '\.dist-info/' | sort >"$room/wheel"
diff "$room/ours" "$room/wheel" || { echo "< is missing in the wheel, > has no business there"; exit 1; }
git ls-files | sort >"$room/ours"
tar -tzf dist/*.tar.gz | cut -d/ -f2- | grep -vx PKG-INFO | sort >"$room/sdist"
diff "$room/ours" "$room/sdist" || { echo "< is missing in the sdist, > has no business there"; exit 1; }
echo "The wheel holds the package and nothing else; the sdist has all that is here."
tar -xzf dist/*.tar.gz -C "$room"
relative=$(grep -Eo '\]\((docs|example_dags|[A-Z]+)[^)]*\)' "$room/airflow_provider_magichour-$version/PKG-INFO" | wc -l)
if [ -z "${REPOSITORY:-}" ]; then
    echo "Still to do: the README has $relative relative links. For a package index, give REPOSITORY=https://…"
elif [ "$relative" -gt 0 ]; then
    echo "The README on a package index has $relative relative links."
    exit 1
fi
make -C "$room/airflow_provider_magichour-$version" test ARGS="${ARGS:-tests/unit tests/emulator}"

echo "A stranger's first run:"
"$bin/python" tools/first_run.py dist/*.whl --folder "$room/first"
export AIRFLOW_HOME="$room/first/airflow"
cd "$room/first"
airflow() { "$room/first/venv/bin/airflow" "$@" 2>/dev/null; }
airflow providers list -o plain | grep magichour
# [core] load_examples is on: Airflow finds ours, and has nothing to complain about.
"$room/first/venv/bin/airflow" dags reserialize >"$room/log" 2>&1 || true
grep -i "airflow_provider_magichour\|magichour.*error" "$room/log" && exit 1
airflow dags list -o plain | grep magichour_one_photo
airflow providers hooks -o plain | grep magichour
airflow providers links -o plain | grep magichour
echo "The wheel works in a clean Airflow $(airflow version)."
cd "$here"
grep -q "^## $version (not released yet)" CHANGELOG.md && echo "Still to do: the date of $version in CHANGELOG.md."
echo "Fit to be published: $(ls dist | tr '\n' ' ')"

#!/usr/bin/env bash
# Every test once: side by side those that only wait, then, one after the other, those that measure
# time or load the machine (marked "alone" by tests/conftest.py). Arguments go to pytest.
# RETRY_FAILED=1 runs what failed once more at the end, and names it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

TESTS_FAILED=1
NOTHING_SELECTED=5
export COVERAGE_FILE="$PWD/.coverage" COVERAGE_PROCESS_START="$PWD/pyproject.toml"
rm -f .coverage .coverage.*
failed=

run() { # pytest's words
  local code=0
  coverage run -m pytest "$@" || code=$?
  case $code in
    0 | "$NOTHING_SELECTED") ;;
    "$TESTS_FAILED") failed=1 ;;
    *) exit "$code" ;;
  esac
}

run --cache-clear --numprocesses 2 --dist loadfile -m "not alone" "$@"
run -m alone "$@"
if [ -n "$failed" ] && [ "${RETRY_FAILED:-}" = 1 ]; then
  echo "UNSTEADY or broken: the failed tests run once more"
  failed=
  run -v --last-failed --last-failed-no-failures none "$@"
fi
[ -z "$failed" ] || exit "$TESTS_FAILED"
coverage combine --quiet
coverage report --skip-covered --fail-under=90

#!/bin/sh
# For a change of lb.toml, before anybody has it: is it valid, and what would it do to each balancer
# that runs?
#
#   LB_TARGETS="10.0.0.1:9900 10.0.0.2:9900" ./check.sh lb.toml
#
# Exits with 1 if the file is bad or a balancer would refuse it, with 2 if one cannot be asked.
set -eu

file=${1:-lb.toml}
format=text
if [ -n "${GITHUB_ACTIONS:-}" ]; then
    format=github
fi

lb check --format "$format" "$file"
for target in ${LB_TARGETS:-}; do
    lb plan --format "$format" --admin "$target" "$file"
done

#!/bin/sh
# Checks a change to lb.toml before it is merged: is the file valid, and what would it change in each
# running balancer?
#
#   LB_TARGETS="10.0.0.1:9900 10.0.0.2:9900" ./check.sh lb.toml
#
# Exits with 1 if the file is invalid or a balancer would reject it, with 2 if a balancer cannot be
# reached.
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

#!/bin/sh
# Copies lb.toml to every host and waits until all balancers serve it.
#
#   LB_HOSTS="lb1 lb2" ./rollout.sh lb.toml
#
# Exits with 0 once all serve it, with 1 if a balancer rejects it (that one keeps its configuration;
# the errors are printed), with 2 on timeout (what each balancer serves is printed). After 1 or 2, revert
# the change, so that the repository matches what runs.
set -eu

file=${1:-lb.toml}
place=${LB_PLACE:-/etc/lb/lb.toml}
targets=
for host in $LB_HOSTS; do
    # A file renamed into place is complete, so lb reads it at once.
    scp -q "$file" "$host:$place.new"
    ssh "$host" mv "$place.new" "$place"
    targets="$targets${targets:+,}$host:${LB_ADMIN_PORT:-9900}"
done
exec lb wait "$file" --targets "$targets" --timeout "${LB_TIMEOUT:-60s}"

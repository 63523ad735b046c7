#!/bin/sh
# Brings lb.toml to every host and waits until all balancers serve exactly it.
#
#   LB_HOSTS="lb1 lb2" ./rollout.sh lb.toml
#
# Exits with 0 if it is live everywhere, with 1 if a balancer has rejected it (all go on with what they
# had; the problems are told), with 2 if not all had it in time (who has what is told). After 1 and 2
# take the change back in the repository, so that it says what runs.
set -eu

file=${1:-lb.toml}
place=${LB_PLACE:-/etc/lb/lb.toml}
targets=
for host in $LB_HOSTS; do
    # Beside it, then renamed over it: what is moved into place is complete, and read at once.
    scp -q "$file" "$host:$place.new"
    ssh "$host" mv "$place.new" "$place"
    targets="$targets${targets:+,}$host:${LB_ADMIN_PORT:-9900}"
done
exec lb wait "$file" --targets "$targets" --timeout "${LB_TIMEOUT:-60s}"

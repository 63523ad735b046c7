#!/usr/bin/env bash
# Runs docker-compose.yml as it is and looks at it from outside: everything becomes healthy, 11
# requests go 2:3:6, an edit of lb.toml is applied, Prometheus scrapes, Zipkin shows one trace of
# balancer and server, everything ends with exit code 0.
#
#   tests/compose.sh            all of it
#   tests/compose.sh images     only the images
#
# Wants docker, docker compose (or docker-compose), curl and jq. Images that cannot be pulled are
# stood in for by images made here, each of which is named in the output; that wants root,
# debootstrap, cargo and mvn. They are marked with the label `stand-in` and stay for the next run:
# `docker image prune --all --filter label=stand-in` takes them away.
set -euo pipefail
cd "$(dirname "$0")/.."

readonly admin=http://127.0.0.1:9900 balancer=http://127.0.0.1:8080
readonly prometheus=http://127.0.0.1:9090 zipkin=http://127.0.0.1:9411
work=$(mktemp --directory)
daemon=

main() {
    trap clean_up EXIT
    want docker curl jq
    compose version >/dev/null || fail "no docker compose and no docker-compose"
    docker_daemon
    base_images
    say "building the images"
    compose build >"$work/build.log" 2>&1 || { tail -50 "$work/build.log"; fail "no images"; }
    [[ ${1:-} == images ]] && return
    start
    balances 2 3 6
    edits
    scrapes
    traces
    stop
    say "the composition works"
}

# --- what is looked at ---------------------------------------------------------------------------

start() {
    say "starting"
    # A copy, so that the edit below leaves the repository alone.
    cp -r examples/compose/lb "$work/lb"
    chmod -R a+rX "$work"
    export LB_CONFIG_DIR=$work/lb
    compose up --detach >"$work/up.log" 2>&1 || { cat "$work/up.log"; compose logs; fail "not up"; }
    local service
    for service in server1 server2 server3 lb prometheus zipkin; do
        within 120 "$service is healthy" healthy "$service"
    done
    within 30 "the balancer is ready" fetch "$admin/ready"
}

healthy() {
    [[ $(docker inspect --format '{{.State.Health.Status}}' "$(container "$1")") == healthy ]]
}

# balances A B C: A + B + C requests in a row reach server1, server2 and server3 so often.
balances() {
    local expected counts
    expected=$(printf 'server1 %s server2 %s server3 %s' "$1" "$2" "$3")
    counts=$(for _ in $(seq $(($1 + $2 + $3))); do
        fetch "$balancer/" | head -1
    done | sort | uniq -c | awk '{ printf "%s%s %s", (NR > 1 ? " " : ""), $2, $1 }')
    [[ $counts == "$expected" ]] || fail "expected $expected, got $counts"
    say "requests: $counts"
}

edits() {
    local before
    before=$(generation)
    sed -i 's/^weight = 6$/weight = 1/' "$LB_CONFIG_DIR/lb.toml"
    within 15 "the edit is applied" newer_than "$before"
    balances 2 3 1
}

generation() { fetch "$admin/api/config" | jq --exit-status .generation; }
newer_than() { (($(generation) > $1)); }

scrapes() {
    within 30 "Prometheus scrapes" targets_up
    within 30 "Prometheus knows the servers' memory" remembers
}

targets_up() {
    fetch "$prometheus/api/v1/targets" |
        jq --exit-status '.data.activeTargets | length > 0 and all(.health == "up")'
}

remembers() {
    fetch "$prometheus/api/v1/query?query=lb_server_memory_bytes" |
        jq --exit-status '.data.result | length == 3'
}

traces() { within 30 "Zipkin has a trace of balancer and server" joined_trace; }

joined_trace() {
    fetch "$zipkin/api/v2/traces?limit=50" | jq --exit-status '
        any(.[]; [.[].localEndpoint.serviceName] | any(. == "lb") and any(startswith("server")))'
}

stop() {
    local service containers=()
    for service in server1 server2 server3 lb; do containers+=("$(container "$service")"); done
    compose stop >/dev/null 2>&1 || fail "does not stop"
    for container in "${containers[@]}"; do
        local code
        code=$(docker inspect --format '{{.State.ExitCode}}' "$container")
        [[ $code == 0 ]] || fail "$(docker inspect --format '{{.Name}}' "$container") exited $code"
    done
    compose down --volumes >/dev/null 2>&1 || fail "does not go down"
}

# --- images --------------------------------------------------------------------------------------

base_images() {
    image debian:bookworm-slim stand_in_debian
    image rust:1.95-slim-bookworm stand_in_rust
    image "$(used prom/prometheus)" stand_in_prometheus
    image "$(used openzipkin/zipkin-slim)" stand_in_zipkin
}

# used NAME: the image with its version, as docker-compose.yml has it.
used() { grep --only-matching --max-count 1 "$1:[^ ]*" docker-compose.yml; }

# image NAME MAKER: pulled; or else made, unless that was done before.
image() {
    local name=$1 maker=$2 found=none
    if docker image inspect "$name" >"$work/image.json" 2>&1; then
        found=$(jq --raw-output '.[0].Config.Labels["stand-in"] // ""' "$work/image.json")
    fi
    [[ -z $found ]] && return
    if timeout 300 docker pull --quiet "$name" >"$work/pull.log" 2>&1; then return; fi
    say "$name cannot be pulled: standing in for it"
    [[ $found == "$(recipe "$maker")" ]] && return
    want debootstrap cargo mvn
    "$maker" "$name"
}

# recipe MAKER: what a stand-in is made of, so that it is made again when that changes.
recipe() {
    { declare -f debian "$1"; cat Cargo.lock; rustc --version; } | sha256sum | cut -c -16
}

stand_in_debian() {
    debian "$work/debian"
    import "$work/debian" "$1" 'CMD ["bash"]'
}

stand_in_rust() {
    local root=$work/rust sysroot
    debian "$root" gcc libc6-dev
    sysroot=$(rustc --print sysroot)
    cp -r "$sysroot/bin" "$root/usr/local/"
    cp -r "$sysroot/lib" "$root/usr/local/"
    # A build in a container reaches no registry here, so it finds the crates in place.
    CARGO_HOME=$root/usr/local/cargo cargo fetch --quiet --locked
    import "$root" "$1" 'ENV CARGO_HOME=/usr/local/cargo CARGO_NET_OFFLINE=true'
}

stand_in_prometheus() {
    debian "$work/prometheus" prometheus wget
    mkdir -p "$work/prometheus/prometheus"
    import "$work/prometheus" "$1" 'WORKDIR /prometheus' 'ENTRYPOINT ["/bin/prometheus"]' \
        'CMD ["--config.file=/etc/prometheus/prometheus.yml","--storage.tsdb.path=/prometheus"]'
}

stand_in_zipkin() {
    debian "$work/zipkin" default-jre-headless wget
    mvn --batch-mode dependency:copy -DoutputDirectory="$work/jar" \
        -Dartifact="io.zipkin:zipkin-server:${1##*:}:jar:slim" \
        >"$work/mvn.log" 2>&1 || { tail -20 "$work/mvn.log"; fail "no Zipkin"; }
    cp "$work"/jar/zipkin-server-*.jar "$work/zipkin/zipkin.jar"
    import "$work/zipkin" "$1" 'USER 1000' 'ENTRYPOINT ["java","-jar","/zipkin.jar"]' \
        'HEALTHCHECK --interval=5s CMD ["wget","-q","-O","/dev/null","http://127.0.0.1:9411/health"]'
}

# debian ROOT PACKAGE…: a small Debian with these packages beside.
debian() {
    local root=$1 packages
    packages=$(IFS=,; echo "${*:2}")
    debootstrap --variant=minbase ${packages:+--include="$packages"} bookworm "$root" \
        >"$work/debootstrap.log" 2>&1 || { tail -20 "$work/debootstrap.log"; fail "no Debian"; }
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
}

# import ROOT NAME CHANGE…: makes the image of a root file system, and takes that away. To be called
# by the maker itself, whose recipe the label tells.
import() {
    local changes=() change
    for change in "LABEL stand-in=$(recipe "${FUNCNAME[1]}")" "${@:3}"; do changes+=(--change "$change"); done
    tar --create --directory "$1" --numeric-owner . | docker import "${changes[@]}" - "$2" >/dev/null
    rm -rf "$1"
}

# --- tools ---------------------------------------------------------------------------------------

compose() {
    if docker compose version >/dev/null 2>&1; then
        docker compose --project-name lb-composition "$@"
    else
        docker-compose --project-name lb-composition "$@"
    fi
}

container() { compose ps --all --quiet "$1" 2>/dev/null || compose ps --quiet "$1"; }

# Uses the daemon that runs, or starts one that ends with this script.
docker_daemon() {
    docker info >/dev/null 2>&1 && return
    want dockerd
    dockerd >"$work/dockerd.log" 2>&1 &
    daemon=$!
    within 60 "the docker daemon runs" docker info
}

# within SECONDS WHAT COMMAND…: tries until the command succeeds.
within() {
    local seconds=$1 what=$2 end=$((SECONDS + $1))
    shift 2
    until "$@" >"$work/last.log" 2>&1; do
        if ((SECONDS >= end)); then
            tail -5 "$work/last.log"
            fail "not within $seconds s: $what"
        fi
        sleep 0.5
    done
    say "$what"
}

fetch() { curl --fail --silent --show-error --max-time 10 "$@"; }

want() {
    local tool
    for tool in "$@"; do
        command -v "$tool" >/dev/null || fail "$tool is not installed"
    done
}

say() { echo "compose: $*"; }

fail() {
    echo "compose: FAILED: $*" >&2
    exit 1
}

clean_up() {
    local code=$?
    trap - EXIT
    if [[ $code != 0 ]]; then compose logs --tail 20 2>/dev/null || true; fi
    compose down --volumes >/dev/null 2>&1 || true
    if [[ -n $daemon ]]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    fi
    rm -rf "$work"
    exit "$code"
}

main "$@"

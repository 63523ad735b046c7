#!/usr/bin/env bash
# Runs docker-compose.yml and tests it from outside: everything becomes healthy, nothing runs as root
# or can write to its image, 11 requests are shared 2:3:6, TLS with HTTP/2 works, an edit of lb.toml on the host is applied
# within a second, a bad edit is rejected and leaves the balancer healthy, a stopped server gets no
# requests until it is up again, Prometheus scrapes, Zipkin has a trace of balancer and server, Grafana
# has its dashboard, and everything exits with 0. The end of the output lists the results, and the
# images that were replaced or left out.
#
#   tests/compose.sh            everything
#   tests/compose.sh images     only builds the images
#
# Needs docker, docker compose (or docker-compose), curl and jq. Images that cannot be pulled are
# replaced with images built here, which the output names; that needs root, debootstrap, cargo and mvn.
# They have the label `stand-in` and are kept for the next run. To remove them:
# `docker image prune --all --filter label=stand-in`.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."

readonly admin=http://127.0.0.1:9900 balancer=http://127.0.0.1:8080
readonly prometheus=http://127.0.0.1:9090 zipkin=http://127.0.0.1:9411 grafana=http://127.0.0.1:3000
services=(server1 server2 server3 lb prometheus zipkin grafana)
work=$(mktemp --directory)
daemon=
stand_ins=()
left_out=()

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
    confined
    balances 2 3 6
    encrypts
    edits
    survives
    scrapes
    traces
    dashboard
    stop
    summary
}

# --- checks --------------------------------------------------------------------------------------

start() {
    say "starting"
    # A copy, so that the edits below do not change the repository.
    cp -r examples/compose/lb "$work/lb"
    chmod -R a+rX "$work"
    export LB_CONFIG_DIR=$work/lb
    local start=$SECONDS service
    compose up --detach "${services[@]}" >"$work/up.log" 2>&1 || { cat "$work/up.log"; compose logs; fail "not up"; }
    for service in "${services[@]}"; do
        within 120 "$service is healthy" healthy "$service"
    done
    within 30 "the balancer is ready" fetch "$admin/ready"
    passed "everything is healthy after $((SECONDS - start)) s"
}

healthy() {
    [[ $(docker inspect --format '{{.State.Health.Status}}' "$(container "$1")") == healthy ]]
}

confined() {
    local service id path
    for service in "${services[@]}"; do
        id=$(container "$service")
        docker top "$id" -eo pid,uid | awk 'NR > 1 && $2 == 0 { exit 1 }' || fail "$service runs as root"
        [[ $(docker inspect --format '{{.HostConfig.ReadonlyRootfs}}' "$id") == true ]] ||
            fail "$service can write to its image"
    done
    for path in /probe /etc/lb/probe; do
        if docker exec "$(container lb)" touch "$path" 2>"$work/touch.log"; then fail "lb can write $path"; fi
        grep --quiet "Read-only file system" "$work/touch.log" || { cat "$work/touch.log"; fail "no touch"; }
    done
    passed "no process runs as root; images and lb.toml are read-only"
}

# balances A B C: of A + B + C requests in a row, server1 gets A, server2 B and server3 C.
balances() {
    local expected counts
    expected=$(printf 'server1 %s\nserver2 %s\nserver3 %s\n' "$@" |
        grep --invert-match ' 0$' | paste --serial --delimiters ' ')
    counts=$(requests $(($1 + $2 + $3)))
    [[ $counts == "$expected" ]] || fail "expected $expected, got $counts"
    passed "requests: $counts"
}

# The CA is new at each start, and its key nowhere.
encrypts() {
    local version
    docker exec "$(container lb)" cat /run/lb-tls/ca.pem >"$work/ca.pem"
    version=$(curl --silent --show-error --fail --max-time 5 --cacert "$work/ca.pem" --output /dev/null \
        --write-out '%{http_version}' https://localhost:8443/) || fail "no response over TLS"
    [[ $version == 2 ]] || fail "HTTP/$version over TLS"
    passed "requests over TLS get responses in HTTP/2"
}

# requests COUNT: prints how many requests each server got. None may fail.
requests() {
    for _ in $(seq "$1"); do fetch "$balancer/" | head -1; done |
        sort | uniq --count | awk '{ print $2, $1 }' | paste --serial --delimiters ' '
}

# Edits the file on the host. The container has only the directory mounted.
edits() {
    local file=$LB_CONFIG_DIR/lb.toml
    sed 's/^weight = 6$/weight = 1/' "$file" >"$work/edited.toml"
    cp "$file" "$work/original.toml"
    edit "written in place" applied cp "$work/edited.toml" "$file"
    balances 2 3 1
    # As editors do.
    cp "$work/original.toml" "$file.new"
    edit "renamed into place" applied mv "$file.new" "$file"
    balances 2 3 6
    echo 'colour = "blue"' >"$file.new"
    edit "with a mistake" rejected mv "$file.new" "$file"
    docker exec "$(container lb)" lb healthcheck || fail "a bad edit makes the balancer unhealthy"
    balances 2 3 6
    cp "$work/original.toml" "$file.new"
    mv "$file.new" "$file"
}

# edit HOW OUTCOME COMMAND…: runs the command, and waits until its record has the outcome.
edit() {
    local before start took end outcome
    before=$(reload)
    start=$(now)
    "${@:3}"
    end=$((start + 5000))
    until [[ $(reload) != "$before" ]]; do
        (($(now) < end)) || fail "an edit $1 is not noticed"
    done
    took=$(($(now) - start))
    outcome=$(reload | jq --raw-output .outcome)
    [[ $outcome == "$2" ]] || fail "an edit $1 is $outcome, not $2"
    ((took < 1000)) || fail "an edit $1 is $2 only after $took ms"
    passed "an edit $1 is $2 after $took ms"
}

reload() { fetch "$admin/api/reloads?limit=1" | jq --compact-output '.reloads[0]'; }
now() { echo $((${EPOCHREALTIME/[.,]/} / 1000)); }

# Two servers stop and come back, each at the former address of the other. Docker assigns the lowest
# free address, so the server that had the higher one starts first.
survives() {
    local before after first=server3 second=server2
    before="$(address server2) $(address server3)"
    if [[ $(tr ' ' '\n' <<<"$before" | sort --version-sort | head -1) != "${before% *}" ]]; then
        first=server2 second=server3
    fi
    docker stop --time 10 "$(container server2)" "$(container server3)" >"$work/stop.log"
    requests 11 >"$work/requests.log"
    within 30 "server2 is down" status server2 down
    within 30 "server3 is down" status server3 down
    balances 2 0 0
    compose rm --force server2 server3 >"$work/rm.log" 2>&1
    compose up --detach --no-deps "$first" >"$work/up.log" 2>&1
    compose up --detach --no-deps "$second" >"$work/up.log" 2>&1
    after="$(address server2) $(address server3)"
    within 60 "server2 is up" status server2 up
    within 60 "server3 is up" status server3 up
    balances 2 3 6
    passed "server2 and server3 were recreated, $before became $after: no request failed"
}

address() {
    docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' "$(container "$1")"
}

status() {
    fetch "$admin/api/servers/$1" | jq --exit-status --arg status "$2" '.status == $status'
}

scrapes() {
    within 30 "Prometheus scrapes" targets_up
    within 30 "Prometheus has the servers' memory" has_memory
    within 30 "Prometheus has the alerts" has_alerts
    passed "Prometheus scrapes the balancer, and has each server's memory and the alerts"
}

targets_up() {
    fetch "$prometheus/api/v1/targets" |
        jq --exit-status '.data.activeTargets | length > 0 and all(.health == "up")'
}

has_memory() {
    fetch "$prometheus/api/v1/query?query=lb_server_memory_bytes" |
        jq --exit-status '.data.result | length == 3'
}

has_alerts() {
    fetch "$prometheus/api/v1/rules?type=alert" |
        jq --exit-status '[.data.groups[].rules[]] | length > 5 and all(.health == "ok")'
}

traces() {
    within 30 "Zipkin has a trace of balancer and server" joined_trace
    passed "Zipkin has a trace of balancer and server"
}

joined_trace() {
    fetch "$zipkin/api/v2/traces?limit=50" | jq --exit-status '
        any(.[]; [.[].localEndpoint.serviceName] | any(. == "lb") and any(startswith("server")))'
}

dashboard() {
    [[ " ${services[*]} " == *" grafana "* ]] || return 0
    fetch "$grafana/api/dashboards/uid/lb" >"$work/dashboard.json"
    jq --exit-status '.dashboard.panels | length > 20' "$work/dashboard.json" >/dev/null || fail "no dashboard"
    within 30 "Grafana reaches Prometheus" \
        fetch "$grafana/api/datasources/proxy/uid/prometheus/api/v1/query?query=lb_build_info"
    passed "Grafana has the dashboard and reaches Prometheus"
}

stop() {
    local start service container containers=()
    for service in server1 server2 server3 lb; do containers+=("$(container "$service")"); done
    start=$(now)
    docker stop --time 30 "$(container lb)" >"$work/stop.log"
    passed "SIGTERM stops lb in $(($(now) - start)) ms, including the time of docker"
    compose stop >/dev/null 2>&1 || fail "does not stop"
    for container in "${containers[@]}"; do
        local code
        code=$(docker inspect --format '{{.State.ExitCode}}' "$container")
        [[ $code == 0 ]] || fail "$(docker inspect --format '{{.Name}}' "$container") exited $code"
    done
    passed "lb and the servers exit with 0"
    compose down --volumes >/dev/null 2>&1 || fail "does not go down"
}

summary() {
    local image
    echo
    echo "The composition works:"
    sed 's/^/- /' "$work/passed"
    for image in "${stand_ins[@]}"; do
        echo "- $image could not be pulled: an image built here replaced it"
    done
    for image in "${left_out[@]}"; do
        echo "- $image could not be pulled or replaced: it was left out and NOT tested"
    done
}

# --- images --------------------------------------------------------------------------------------

base_images() {
    image debian:bookworm-slim stand_in_debian
    image rust:1.95-slim-bookworm stand_in_rust
    image "$(used prom/prometheus)" stand_in_prometheus
    image "$(used openzipkin/zipkin-slim)" stand_in_zipkin
    optional grafana "$(used grafana/grafana)"
}

# optional SERVICE IMAGE: pulls the image, or leaves the service out. No package has its program.
optional() {
    local service=$1 name=$2 rest=() other
    docker image inspect "$name" >/dev/null 2>&1 && return
    if timeout 300 docker pull --quiet "$name" >"$work/pull.log" 2>&1; then return; fi
    say "$name cannot be pulled: leaving $service out"
    left_out+=("$name")
    for other in "${services[@]}"; do
        if [[ $other != "$service" ]]; then rest+=("$other"); fi
    done
    services=("${rest[@]}")
}

# used NAME: prints the image with its version in docker-compose.yml.
used() { grep --only-matching --max-count 1 "$1:[^ ]*" docker-compose.yml; }

# image NAME MAKER: pulls the image or, if that fails, builds one unless it exists.
image() {
    local name=$1 maker=$2 existing=none
    if docker image inspect "$name" >"$work/image.json" 2>&1; then
        existing=$(jq --raw-output '.[0].Config.Labels["stand-in"] // ""' "$work/image.json")
    fi
    [[ -z $existing ]] && return
    if timeout 300 docker pull --quiet "$name" >"$work/pull.log" 2>&1; then return; fi
    say "$name cannot be pulled: replacing it"
    stand_ins+=("$name")
    [[ $existing == "$(recipe "$maker")" ]] && return
    want debootstrap cargo mvn
    "$maker" "$name"
}

# recipe MAKER: prints a hash of everything that goes into a stand-in, which is rebuilt when it changes.
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
    # Without a registry for images, containers may not reach one for crates, so the image contains them.
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

# debian ROOT PACKAGE…: installs a minimal Debian with these packages.
debian() {
    local root=$1 packages
    packages=$(IFS=,; echo "${*:2}")
    debootstrap --variant=minbase ${packages:+--include="$packages"} bookworm "$root" \
        >"$work/debootstrap.log" 2>&1 || { tail -20 "$work/debootstrap.log"; fail "no Debian"; }
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
}

# import ROOT NAME CHANGE…: makes an image of a root file system, and removes that. Must be called by
# the maker itself, whose recipe becomes the label.
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

# Uses the running daemon, or starts one that ends with this script.
docker_daemon() {
    docker info >/dev/null 2>&1 && return
    want dockerd
    dockerd >"$work/dockerd.log" 2>&1 &
    daemon=$!
    within 60 "the docker daemon runs" docker info
}

# within SECONDS WHAT COMMAND…: repeats the command until it succeeds.
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

# passed WHAT: prints a result, now and in the summary.
passed() {
    say "$*"
    echo "$*" >>"$work/passed"
}

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

# Two images from one build:
#   docker build --target lb --tag lb .
#   docker build --target demo-server --tag lb-demo-server .
# Only instructions that every builder supports, with BuildKit or without.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
# Builds the dependencies with empty sources first, so that only a change of the lock file rebuilds
# them.
COPY Cargo.toml Cargo.lock ./
COPY backends/Cargo.toml backends/
COPY vendor vendor
RUN mkdir --parents src backends/src \
    && touch src/lib.rs backends/src/lib.rs \
    && echo 'fn main() {}' | tee src/main.rs > backends/src/main.rs \
    && cargo build --release --locked --workspace --bins
COPY . .
# Copied files keep their times, which may be older than those of the empty sources.
RUN find src backends/src -name '*.rs' -exec touch {} + \
    && cargo build --release --locked --workspace --bins

FROM debian:bookworm-slim AS runtime
# A number, so that an orchestrator can verify without a user database that it is not root.
USER 10001:10001
STOPSIGNAL SIGTERM

FROM runtime AS demo-server
COPY --from=build /build/target/release/demo-server /usr/local/bin/
ENV ADDRESS=0.0.0.0:8081
EXPOSE 8081
HEALTHCHECK --interval=5s --timeout=3s CMD ["demo-server", "healthcheck"]
ENTRYPOINT ["demo-server"]

FROM runtime AS lb
COPY --from=build /build/target/release/lb /usr/local/bin/
# Mount the directory, not the file: a file that is mounted by itself stays the old one when it is
# replaced by renaming.
ENV LB_CONFIG=/etc/lb/lb.toml
EXPOSE 8080 9900
# `--any`: one pool without servers is no reason to restart the balancer of the others.
HEALTHCHECK --interval=5s --timeout=3s CMD ["lb", "healthcheck", "--any"]
ENTRYPOINT ["lb"]
CMD ["run"]

# Two images out of one build:
#   docker build --target lb --tag lb .
#   docker build --target demo-server --tag lb-demo-server .
# Plain instructions only, so that every builder takes them, BuildKit or not.

FROM rust:1.95-slim-bookworm AS build
WORKDIR /build
# The dependencies by themselves, behind empty sources: they are built again when the lock file
# changes, not with every edit.
COPY Cargo.toml Cargo.lock ./
COPY backends/Cargo.toml backends/
RUN mkdir --parents src backends/src \
    && touch src/lib.rs backends/src/lib.rs \
    && echo 'fn main() {}' | tee src/main.rs > backends/src/main.rs \
    && cargo build --release --locked --workspace --bins
COPY . .
# Copied files keep their times, which may be older than those of the empty ones.
RUN find src backends/src -name '*.rs' -exec touch {} + \
    && cargo build --release --locked --workspace --bins

FROM debian:bookworm-slim AS runtime
# By number: an orchestrator that insists on "not root" can tell without a user database.
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
# Mount the directory, not the file: a file that is replaced by renaming stays the old one in a
# mount of its own.
ENV LB_CONFIG=/etc/lb/lb.toml
EXPOSE 8080 9900
HEALTHCHECK --interval=5s --timeout=3s CMD ["lb", "healthcheck"]
ENTRYPOINT ["lb"]
CMD ["run"]

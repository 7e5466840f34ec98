# A feature store for tests: Valkey, which links the C library alone. From tests/setup/store.sh.
ARG BASE=base
FROM ${BASE}
COPY --chmod=0755 valkey-server /usr/local/bin/
USER 65532:65532

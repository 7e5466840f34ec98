# A feature store for tests: Debian's Redis under the name of Valkey's server, with the libraries that
# the base lacks. From tests/setup/store.sh.
ARG BASE=base
FROM ${BASE}
COPY lib/ /opt/store/lib/
COPY --chmod=0755 valkey-server /usr/local/bin/
ENV LD_LIBRARY_PATH=/opt/store/lib
USER 65532:65532

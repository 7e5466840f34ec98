# libtorch on the base: the lower layers of worker/Dockerfile, built once for each
# version. The base is a minimal Debian with ca-certificates and libstdc++; the
# folder holds lib/, with libtorch's .so files, and licenses/. From tests/setup/images.sh:
#   buildah bud --build-arg BASE=debian:bookworm-slim -t libtorch -f worker/libtorch.Dockerfile FOLDER
ARG BASE=debian:bookworm-slim
FROM ${BASE}
COPY . /opt/libtorch/
ENV LD_LIBRARY_PATH=/opt/libtorch/lib

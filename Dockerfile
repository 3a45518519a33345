# syntax=docker/dockerfile:1
#
# The image of every pod, for nodes without a GPU (`--target cpu`) and with one (`--target cuda`):
#
#     docker build --target cpu --build-arg COMMIT="$(git rev-parse HEAD)" -t resnet-dist:0.1.0-ray2.60.0-cpu .
#
# Both start from the same base: PyTorch's wheels bring CUDA, cuDNN and NCCL with them, and the node the driver.
# The base is pinned by tag, and by content, too, where BASE has a digest (docs/operations.md, "The image").

ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH
COPY pyproject.toml constraints.txt ./
# What the package needs without the package, so that a change of code does not install everything again.
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
    > requirements.txt

FROM build AS build-cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --constraint constraints.txt --extra-index-url "$TORCH_INDEX" --requirement requirements.txt

FROM build AS build-cuda
# nvidia-ml-py reads the GPUs' energy counters.
RUN pip install --constraint constraints.txt --requirement requirements.txt nvidia-ml-py

# The code and, for the provenance of every trial, the commit that it is. Without git in the image, `_build.json` is
# what `resnet_dist/records/git_state.py` reads.
FROM build AS code
COPY LICENSE README.md ./
COPY cluster cluster
COPY resnet_dist resnet_dist
COPY tune_jobs tune_jobs
ARG COMMIT
ARG DIRTY=false
RUN expr "$COMMIT" : '[0-9a-f]\{40\}$' > /dev/null \
    || { echo "error: --build-arg COMMIT: '$COMMIT' is no full commit; give what git rev-parse HEAD says" >&2; exit 1; }
RUN expr "$DIRTY" : 'true$\|false$' > /dev/null \
    || { echo "error: --build-arg DIRTY: '$DIRTY' is neither true nor false" >&2; exit 1; }
RUN pip install --no-deps --target /opt/code . \
    && printf '{"commit": "%s", "dirty": %s}\n' "$COMMIT" "$DIRTY" > /opt/code/resnet_dist/_build.json

FROM ${BASE} AS runtime
# The numbers are those of the manifests' security contexts, where /home/ray and /cache are volumes.
RUN groupadd --gid 1000 ray && useradd --uid 1000 --gid 1000 --create-home ray && install --directory --owner=ray /cache
ENV PATH=/opt/code/bin:/opt/venv/bin:$PATH \
    PYTHONPATH=/opt/code \
    PYTHONUNBUFFERED=1 \
    HOME=/home/ray \
    RESNET_DIST_CACHE=/cache
COPY k8s/health_check.py /opt/health_check.py
WORKDIR /home/ray
USER 1000:1000
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s CMD ["python", "/opt/health_check.py"]
CMD ["resnet-dist", "--help"]

FROM runtime AS cuda
COPY --from=build-cuda /opt/venv /opt/venv
COPY --from=code /opt/code /opt/code
# Not which GPUs it sees: that is for whoever runs it to say, or a pod that asks for none would see all of its node.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
ARG COMMIT
LABEL org.opencontainers.image.revision=$COMMIT

# Last, so that a build without --target makes the small one.
FROM runtime AS cpu
COPY --from=build-cpu /opt/venv /opt/venv
COPY --from=code /opt/code /opt/code
ARG COMMIT
LABEL org.opencontainers.image.revision=$COMMIT

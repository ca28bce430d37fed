# The images for deploy/kubernetes. All dependencies are pinned, and nothing runs as root.
#
#     docker build --target slim -t REGISTRY/fer-on-ray-slim:0.1.0 .
#     docker build --target full -t REGISTRY/fer-on-ray:0.1.0 .
#
# slim labels, serves and ingests on CPUs. full adds torch for training, evaluate, export and
# GPUs. Use the version in pyproject.toml as the tag; "latest" would not say which version runs. With
# --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu full has no CUDA and is gigabytes
# smaller.
FROM python:3.11-slim-bookworm AS slim

# KubeRay's own commands call bash, which is there, and wget. Debian keeps no old versions to pin.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 ray

WORKDIR /app
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY fer ./fer
COPY ray_jobs ./ray_jobs
# Tests of the packages, and Ray's Java, take 140 MB.
RUN pip install --no-cache-dir -c constraints.txt . \
    && rm -rf build /usr/local/lib/python3.11/site-packages/ray/jars \
    && find /usr/local/lib/python3.11/site-packages -type d -name tests -prune -exec rm -r {} +

USER 10001
WORKDIR /home/ray
ENV RAY_USAGE_STATS_ENABLED=0 \
    RAY_idle_worker_killing_time_threshold_ms=60000 \
    PYTHONUNBUFFERED=1
ENTRYPOINT []
CMD ["fer", "--help"]

FROM slim AS full
USER 0
WORKDIR /app
ARG TORCH_INDEX=
RUN pip install --no-cache-dir -c constraints.txt \
        ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".[train,tune,mlflow]" \
    && rm -rf build \
    && find /usr/local/lib/python3.11/site-packages -type d -name tests -prune -exec rm -r {} +
USER 10001
WORKDIR /home/ray

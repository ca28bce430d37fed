# The image for deploy/kubernetes. All dependencies are pinned, and nothing runs as root.
#
#     docker build -t REGISTRY/fer-on-ray:0.1.0 .
#
# Use the version in pyproject.toml as the tag; "latest" would not say which version runs. With
# --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cpu the image has no CUDA and is
# gigabytes smaller.
FROM python:3.11-slim-bookworm

# KubeRay's probes of a pod call bash and wget.
RUN apt-get update \
    && apt-get install -y --no-install-recommends bash wget \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 ray

WORKDIR /app
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY fer ./fer
COPY ray_jobs ./ray_jobs
ARG TORCH_INDEX=
RUN pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--extra-index-url $TORCH_INDEX} . \
    && rm -rf build

USER 1000
WORKDIR /home/ray
ENV RAY_USAGE_STATS_ENABLED=0 \
    RAY_idle_worker_killing_time_threshold_ms=60000 \
    PYTHONUNBUFFERED=1
ENTRYPOINT []
CMD ["fer", "--help"]

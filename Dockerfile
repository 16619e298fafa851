# The suite as an image, for GPU CI runners:
#
#     docker build -t bitzones .
#     docker run --rm --gpus all -v "$PWD/out:/out" bitzones run mistral-7b -o /out
#     docker run --rm --gpus all -v "$PWD/out:/out" bitzones pytest bench/ --benchmark-json=/out/run.json
#
# It works with a read-only root (--read-only --tmpfs /tmp) and without a network once the model is under /out. Without a GPU it computes on
# the CPU. /out has to be writable for USER_ID; --user "$(id -u)" takes another.
#
# BUILD_IMAGE needs Python 3.11 or newer with venv, a C++ compiler or apt, and for CUDA nvcc: quanto compiles its kernels. RUNTIME_IMAGE needs
# the same Python and, for CUDA, the same torch. A torch that they bring is used, else pip brings one. For a CPU both may be one image:
# scripts/check_image.sh does that.
ARG BASE_IMAGE=pytorch/pytorch:2.8.0-cuda12.8-cudnn9-devel
ARG RUNTIME_IMAGE=${BASE_IMAGE}

FROM ${BASE_IMAGE} AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
ENV PATH=/opt/bitzones/bin:$PATH
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY bench bench
COPY profiles profiles
# What pip installs is a local wheel, whose requirements are bounded. Compiling needs no GPU, but has to be told for which: Ampere (A100,
# RTX 30), Ada and Hopper; the name "H200" is Hopper too.
ARG TORCH_CUDA_ARCH_LIST="8.0;8.6;8.9;9.0"
# Which torch, where the base brings none: the index's own is of several gigabytes and for CUDA.
ARG TORCH=torch
# hadolint ignore=DL3013
RUN python3 -m venv --system-site-packages /opt/bitzones \
    && pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && wheel=$(echo /wheels/bitzones-*.whl) \
    && pip install --no-cache-dir "${wheel}[measure,gpu]" "${TORCH}" \
    && TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST}" bitzones doctor --build

FROM ${RUNTIME_IMAGE}
LABEL org.opencontainers.image.title="bitzones" \
      org.opencontainers.image.description="Which layers of a causal language model survive 2 bits: measured, not guessed" \
      org.opencontainers.image.licenses="Apache-2.0"

# torch.compile needs a compiler when it runs; quanto does not: what is built is loaded as it is.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/bitzones /opt/bitzones

# Everything that is written at run time lies under /out.
ENV PATH=/opt/bitzones/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTEST_ADDOPTS="-p no:cacheprovider" \
    HOME=/out/.home \
    HF_HOME=/out/.cache/huggingface \
    XDG_CACHE_HOME=/out/.cache \
    TORCHINDUCTOR_CACHE_DIR=/out/.cache/inductor \
    TRITON_CACHE_DIR=/out/.cache/triton

WORKDIR /bitzones
COPY bench bench
COPY profiles profiles
COPY docker/entrypoint.sh /usr/local/bin/bitzones-entrypoint
ARG USER_ID=10001
RUN mkdir -p /out && chown "${USER_ID}:${USER_ID}" /out
USER ${USER_ID}:${USER_ID}
VOLUME /out
ENTRYPOINT ["/bin/sh", "/usr/local/bin/bitzones-entrypoint"]
CMD ["run", "tiny", "-o", "/out"]

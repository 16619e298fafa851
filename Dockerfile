# bitzones as an image for GPU CI runners:
#
#     docker build -t bitzones .
#     docker run --rm --gpus all -v "$PWD/out:/out" bitzones run mistral-7b -o /out
#     docker run --rm --gpus all -v "$PWD/out:/out" bitzones pytest bench/ --benchmark-json=/out/run.json
#     docker run --rm --read-only --tmpfs /tmp -v "$PWD/out:/out" -p 127.0.0.1:8000:8000 -e BITZONES_API_KEY bitzones serve /out/bundle --host 0.0.0.0
#
# It runs with a read-only root (--read-only --tmpfs /tmp), without a network once the model is under /out, and on the CPU if there is no GPU.
# USER_ID must be able to write to /out; --user "$(id -u)" selects another user.
#
# BUILD_IMAGE needs Python 3.11 or newer with venv, a C++ compiler or apt, and for CUDA, nvcc: quanto compiles its kernels. RUNTIME_IMAGE needs
# the same Python and, for CUDA, the same torch. If they contain torch it is used, otherwise pip installs it. For a CPU both can be one image, as in
# scripts/check_image.sh.
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
# pip installs a local wheel, whose requirements are bounded. Compiling needs no GPU but must know the architectures: Ampere (A100, RTX 30), Ada
# and Hopper (H100, H200).
ARG TORCH_CUDA_ARCH_LIST="8.0;8.6;8.9;9.0"
# The torch to install if the base has none; the index's default is several gigabytes, for CUDA.
ARG TORCH=torch
# hadolint ignore=DL3013
RUN python3 -m venv --system-site-packages /opt/bitzones \
    && pip wheel --no-cache-dir --no-deps --wheel-dir /wheels . \
    && wheel=$(echo /wheels/bitzones-*.whl) \
    && pip install --no-cache-dir "${wheel}[measure,gpu,serve,monitor]" "${TORCH}" \
    && TORCH_CUDA_ARCH_LIST="${TORCH_CUDA_ARCH_LIST}" bitzones doctor --build

FROM ${RUNTIME_IMAGE}
LABEL org.opencontainers.image.title="bitzones" \
      org.opencontainers.image.description="Which layers of a causal language model survive 2 bits" \
      org.opencontainers.image.licenses="Apache-2.0"

# torch.compile needs a compiler at run time. quanto does not: its built extensions are loaded as they are.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/bitzones /opt/bitzones

# Everything written at run time is under /out.
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

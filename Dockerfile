# The suite as an image, for CI runners:
#
#     docker build -t bitzones .
#     docker run --rm -v "$PWD/out:/out" bitzones run tiny -o /out
#     docker run --rm -v "$PWD/out:/out" bitzones pytest bench/ --benchmark-json=/out/run.json
#
# BASE_IMAGE needs Python 3.11 or newer with pip and venv; a torch that it brings is used, else pip brings one.
ARG BASE_IMAGE=python:3.11.14-slim-bookworm

FROM ${BASE_IMAGE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY bench bench
COPY profiles profiles
RUN python3 -m venv /build && /build/bin/pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="bitzones" \
      org.opencontainers.image.description="Which layers of a causal language model survive 2 bits: measured, not guessed" \
      org.opencontainers.image.licenses="Apache-2.0"

# g++ stays in the image: torch asks for the compiler each time that it loads quanto's extension, even when there is nothing to compile.
# hadolint ignore=DL3008
RUN apt-get update \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/opt/bitzones/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTEST_ADDOPTS="-p no:cacheprovider" \
    HOME=/home/bitzones \
    HF_HOME=/home/bitzones/huggingface

# What pip installs is a local wheel, whose requirements are bounded.
COPY --from=build /wheels /wheels
# hadolint ignore=DL3013
RUN python3 -m venv --system-site-packages /opt/bitzones \
    && wheel=$(echo /wheels/bitzones-*.whl) \
    && pip install --no-cache-dir "${wheel}[measure,gpu]"

# quanto compiles into its own folder at the first use. That is done here, and the user may write there: torch takes a lock in it.
ARG USER_ID=10001
RUN python -c "import torch, optimum.quanto; torch.ops.quanto.unpack(torch.zeros(4, 4, dtype=torch.uint8), 4)" \
    && built=$(python -c "from optimum.quanto.library import get_extension; print(get_extension('quanto_cpp').build_directory)") \
    && mkdir -p /out "${HF_HOME}" \
    && chown -R "${USER_ID}:${USER_ID}" "${built}" /out "${HOME}"

WORKDIR /bitzones
COPY bench bench
COPY profiles profiles
COPY docker/entrypoint.sh /usr/local/bin/bitzones-entrypoint

USER ${USER_ID}:${USER_ID}
VOLUME /out
ENTRYPOINT ["/bin/sh", "/usr/local/bin/bitzones-entrypoint"]
CMD ["run", "tiny", "-o", "/out"]

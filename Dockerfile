# Any Debian image with python3, venv and pip will do.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS packages
RUN apt-get update \
 && apt-get install --yes --no-install-recommends binutils \
 && rm -rf /var/lib/apt/lists/*
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
COPY container/build.txt container/requirements.txt /build/
RUN python3 -m venv /build/tools \
 && /build/tools/bin/pip install --require-hashes --only-binary :all: -r /build/build.txt
# The environment has no pip of its own. --no-deps: tf-keras asks for the tensorflow that tensorflow-cpu stands in for.
RUN python3 -m venv --without-pip /opt/tflite-guard \
 && /build/tools/bin/pip --python /opt/tflite-guard/bin/python install \
      --require-hashes --only-binary :all: --no-deps --no-compile -r /build/requirements.txt

FROM packages AS build
COPY container/slim.py /build/
# Bytecode is never compared with its source, whose time may differ in another layer, and which nobody can rewrite.
RUN python3 /build/slim.py /opt/tflite-guard \
 && /opt/tflite-guard/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/tflite-guard/lib
COPY pyproject.toml README.md LICENSE /build/source/
COPY schemas /build/source/schemas
COPY tflite_guard /build/source/tflite_guard
RUN cd /build/source \
 && /build/tools/bin/hatchling build --target wheel --directory /build/wheel \
 && /build/tools/bin/pip --python /opt/tflite-guard/bin/python install --no-index --no-deps --no-compile /build/wheel/*.whl \
 && /opt/tflite-guard/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/tflite-guard/lib/python3*/site-packages/tflite_guard

FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="tflite-guard" \
      org.opencontainers.image.description="Stops TensorFlow Lite accuracy regressions at the pull request" \
      org.opencontainers.image.source="https://github.com/tflite-guard/tflite-guard" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/tflite-guard /opt/tflite-guard
# Unbuffered, so that a log shows both streams in the order of what happened.
ENV PATH=/opt/tflite-guard/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
WORKDIR /work
# No USER: a GitHub Action runs as root, because the runner's folders belong to a user that the image cannot know.
# The exec form keeps variables with a dash in their name, which a shell drops.
ENTRYPOINT ["/opt/tflite-guard/bin/tflite-guard"]

# The image of every Paperboy service; its command selects the process.

# --- Install the packages and the project -------------------------------------------------------

FROM python:3.11-slim AS build

ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
WORKDIR /srv/paperboy

# The packages first: they change less often than the code.
COPY requirements.txt requirements-semantic.txt ./
RUN pip install --require-hashes -r requirements.txt
# With any value, also the packages that run the model of the setting SEMANTIC_MODEL.
ARG SEMANTIC_MODEL=
RUN if [ -n "$SEMANTIC_MODEL" ]; then pip install --require-hashes -r requirements-semantic.txt; fi

COPY pyproject.toml README.md LICENSE ./
COPY pipeline/ pipeline/
COPY emails/ emails/
# Editable, so that a folder mounted over emails/ replaces the templates. COPY keeps the modes of the
# checkout, which may be closed to other users. Compiled, because the services cannot write here.
RUN pip install --no-deps --no-build-isolation --editable . \
    && chmod -R a+rX . \
    && python -m compileall -q pipeline

# --- The image ----------------------------------------------------------------------------------

FROM python:3.11-slim

LABEL org.opencontainers.image.title="Paperboy" \
      org.opencontainers.image.description="A self-hosted daily newsletter of research papers" \
      org.opencontainers.image.licenses="Apache-2.0"

# The only folder that services can write to is /tmp: the root file system is read-only.
ENV PATH=/venv/bin:$PATH HOME=/tmp PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /srv/paperboy

COPY --from=build /venv /venv
COPY --from=build /srv/paperboy /srv/paperboy

# Celery warns about a user without an entry in these files.
RUN groupadd --gid 10001 paperboy \
    && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home paperboy
USER 10001:10001
EXPOSE 8000
STOPSIGNAL SIGTERM
CMD ["paperboy", "serve", "--host", "0.0.0.0", "--port", "8000"]

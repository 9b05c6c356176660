# One image for every command: gateway, worker, beat, flower, migrate.
# The versions are those of requirements.lock, with which the tests ran.

FROM python:3.13.14-slim AS build
WORKDIR /src
RUN python -m venv /opt/delivery
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY delivery ./delivery
COPY migrations ./migrations
COPY config ./config
RUN /opt/delivery/bin/pip install --no-cache-dir --disable-pip-version-check \
    --constraint requirements.lock ".[flower,postgres,push]"

FROM python:3.13.14-slim
RUN groupadd --system --gid 10001 delivery \
    && useradd --system --uid 10001 --gid delivery --home-dir /var/lib/delivery \
       --shell /usr/sbin/nologin delivery \
    && install --directory --mode=0700 --owner=delivery --group=delivery /var/lib/delivery
COPY --from=build /opt/delivery /opt/delivery
ENV PATH=/opt/delivery/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    DELIVERY_HOST=0.0.0.0 \
    DELIVERY_PORT=8080 \
    DELIVERY_DATA_DIR=/var/lib/delivery \
    DELIVERY_LOG_FORMAT=json \
    DELIVERY_PULSE_FILE=/tmp/delivery-pulse
USER 10001:10001
WORKDIR /var/lib/delivery
EXPOSE 8080
# The gateway's: its event loop answers. /readyz is for balancers; nothing is restarted for it. In bash,
# which takes milliseconds; an interpreter that starts every few seconds in each container does not.
HEALTHCHECK --interval=5s --timeout=5s --start-period=180s --retries=5 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /healthz HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3 && read -r -t 4 answer <&3 && [[ $answer == *' 200 '* ]]"]
ENTRYPOINT ["delivery"]
CMD ["gateway"]

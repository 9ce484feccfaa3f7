#!/bin/sh
# Installs what the tests drive besides Python: RabbitMQ, jemalloc, PostgreSQL, promtool, network namespaces and clocks that are wrong. Needs root and apt; elsewhere those tests say what they miss and are skipped.
set -eu
missing=""
for pair in rabbitmq-server:/usr/sbin/rabbitmq-server libjemalloc2:/usr/lib/*/libjemalloc.so.2 postgresql:/usr/lib/postgresql iproute2:/sbin/ip prometheus:/usr/bin/promtool faketime:/usr/bin/faketime; do
  # shellcheck disable=SC2086 # one may be a pattern
  [ -e ${pair#*:} ] || missing="$missing ${pair%%:*}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
  echo "not installed, their tests are skipped:$missing (as root on Debian or Ubuntu: apt-get install$missing)" >&2
  exit 0
fi
echo "installing for the tests:$missing"
policy=/usr/sbin/policy-rc.d # the packages would start their services; the tests start their own
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' > "$policy" && chmod +x "$policy"
  trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086 # a list of names
apt-get install -qq --no-install-recommends $missing >/dev/null

#!/usr/bin/env bash
# Sees to it that there is a Chromium for the tests of the report page, and prints its path. Where there is none and it
# cannot be installed, those tests are skipped, unless VTOKENS_REQUIRE_BROWSER=1: then this fails.
set -euo pipefail

find_browser() {
    local name
    for name in "${VTOKENS_BROWSER:-}" chromium chromium-browser google-chrome google-chrome-stable; do
        if [ -n "$name" ] && command -v "$name"; then return 0; fi
    done
    return 1
}

find_browser && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -q >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium fonts-dejavu-core >&2
    find_browser && exit 0
fi
echo "no Chromium: install one (apt-get install chromium), or name one in VTOKENS_BROWSER" >&2
[ "${VTOKENS_REQUIRE_BROWSER:-0}" != 1 ]

#!/bin/sh
# A bitzones command by default; pytest, python and a shell by name.
set -eu
case "${1:-}" in
    pytest | python | python3 | sh | bash) exec "$@" ;;
    *) exec bitzones "$@" ;;
esac

#!/bin/sh
# Runs a bitzones command by default, or pytest, python or a shell by name.
set -eu
case "${1:-}" in
    pytest | python | python3 | sh | bash) exec "$@" ;;
    *) exec bitzones "$@" ;;
esac

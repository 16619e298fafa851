#!/usr/bin/env bash
# Build the image and run it, without a docker engine and without a GPU: on a base of Debian that debootstrap makes, through buildah and
# podman. For root on Debian or Ubuntu, at most ten minutes on two idle cores; a second run takes the base from the cache.
#
#     scripts/check_image.sh [PROFILE]        the profile that is run inside, tiny by default
#
# Shows that the Dockerfile builds, and that the image runs as its numeric user, with a read-only root, without a network and with nothing
# writable but /out: a bitzones command by default, and pytest by name.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${1:-tiny} suite=${SUITE:-bookworm}
torch=${BITZONES_TORCH:-torch==2.13.0} image=localhost/bitzones-check base=localhost/bitzones-base
say() { printf '== %s (%s s)\n' "$*" "$SECONDS"; }
fail() { printf 'check_image: %s\n' "$*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "needs root: sudo scripts/check_image.sh"
missing=()
for tool in debootstrap buildah podman runc; do command -v "$tool" >/dev/null || missing+=("$tool"); done
if ((${#missing[@]})); then
    say "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# What this machine needs to reach its package index is lent to the build, and is no part of the image.
lent=()
if [ -d /etc/ssl/certs ]; then lent+=(-v /etc/ssl/certs:/etc/ssl/certs:ro); fi
if [ -d /usr/local/share/ca-certificates ]; then lent+=(-v /usr/local/share/ca-certificates:/usr/local/share/ca-certificates:ro); fi
for file in /etc/pip.conf /etc/xdg/pip /root/.config/pip; do if [ -e "$file" ]; then lent+=(-v "$file:$file:ro"); fi; done
read -ra links <<<"$(python3 -m pip config get global.find-links 2>/dev/null || true) ${PIP_FIND_LINKS:-}"
read -ra indexes <<<"$(python3 -m pip config get global.extra-index-url 2>/dev/null || true)"
for place in "${links[@]}" "${indexes[@]}"; do
    folder=${place#file://} folder=${folder%/simple}
    if [ -d "$folder" ] && [[ " ${lent[*]} " != *" $folder:"* ]]; then lent+=(-v "$folder:$folder:ro"); fi
done

if ! buildah inspect --type image "$base" >/dev/null 2>&1; then
    say "a base of Debian $suite"
    debootstrap --variant=minbase --include=python3,python3-venv,python3-dev,ca-certificates "$suite" "$scratch/base" >"$scratch/log" 2>&1 \
        || { tail -5 "$scratch/log" >&2; fail "debootstrap"; }
    made=$(buildah from scratch)
    buildah add -q "$made" "$scratch/base" / >/dev/null
    buildah commit -q "$made" "$base" >/dev/null
    buildah rm "$made" >/dev/null
    rm -rf "$scratch/base"
fi

say "building"
buildah bud --format docker --isolation chroot --layers --build-arg "BASE_IMAGE=$base" --build-arg "TORCH=$torch" "${lent[@]}" -t "$image" . >"$scratch/log" 2>&1 \
    || { tail -30 "$scratch/log" >&2; fail "the image does not build"; }

user=$(buildah inspect --type image --format '{{.OCIv1.Config.User}}' "$image")
[[ $user =~ ^[1-9][0-9]*:[1-9][0-9]*$ ]] || fail "USER is '$user', and should be a number other than 0"

mkdir "$scratch/out"
chown "$user" "$scratch/out"
# Limits that are named: podman's own are above what root of a container, or of a CI machine, may set.
run() {
    podman run --rm --runtime runc --ulimit nofile=1024:1024 --ulimit nproc=4096:4096 --network none --read-only -v "$scratch/out:/out" "$image" "$@"
}

say "pytest bench/ by name"
run pytest bench/ -q -k 'memory and bf16 or latency and bf16' --bitzones-profile=tiny --benchmark-json=/out/run.json || fail "pytest"
[ -s "$scratch/out/run.json" ] || fail "pytest left no /out/run.json"
[ "$(stat -c %u:%g "$scratch/out/run.json")" = "$user" ] || fail "/out/run.json does not belong to $user"

say "bitzones run $profile"
run run "$profile" -o /out/report || fail "bitzones run $profile"
for file in summary.md analysis.json plan.json run.json; do [ -s "$scratch/out/report/$file" ] || fail "no /out/report/$file"; done
grep -q 'not measured (no CUDA device)' "$scratch/out/report/summary.md" || fail "the report does not say that there is no CUDA device"

say "nothing outside of /out can be written"
if run sh -c 'touch /bitzones/x' 2>/dev/null; then fail "the root is not read-only"; fi
say "the image builds and runs"

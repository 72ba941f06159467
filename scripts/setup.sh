#!/usr/bin/env bash
# Makes .venv from requirements.lock (hash-checked) and installs this checkout into it, editable.
# Does nothing when .venv already fits the lock. Uses uv when it is on the PATH, else venv + pip.
# With --for-tests it also sees to a PostgreSQL and a Chromium, where one is missing and this user may install it.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=${VENV:-.venv}
STAMP=$VENV/.requirements.sha256
WANTED=$(cat requirements.lock pyproject.toml scripts/setup.sh | sha256sum | cut -d' ' -f1)

say() { printf '==> %s\n' "$*" >&2; }
fail() {
    printf 'error: %s\n' "$1" >&2
    shift
    printf '  hint: %s\n' "$@" >&2
    exit 2
}

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
        if command -v "$candidate" >/dev/null 2>&1 && is_new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

apt_install() { # packages: installs what is missing, when this user may
    local missing=() package as_root=()
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        sudo -n true 2>/dev/null || return 1
        as_root=(sudo -n)
    fi
    say "installing ${missing[*]} with apt"
    "${as_root[@]}" apt-get update -qq && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
}

make_venv() { # python
    local version
    version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    say "making $VENV with Python $version"
    rm -rf "$VENV"
    if command -v uv >/dev/null 2>&1; then
        uv venv --quiet --python "$1" "$VENV"
        return
    fi
    if ! "$1" -c 'import ensurepip' >/dev/null 2>&1; then
        # Debian ships Python without the part that venv needs.
        command -v apt-get >/dev/null 2>&1 && apt_install "python$version-venv" || fail \
            "$1 has no venv module, and this user may not install it" \
            "as root: apt-get install python$version-venv" "or install uv, then run the same command again"
    fi
    "$1" -m venv "$VENV"
}

install_locked() {
    say "installing $(grep -c '==' requirements.lock) packages from requirements.lock (a few minutes the first time)"
    if command -v uv >/dev/null 2>&1; then
        uv pip install --python "$VENV/bin/python" --require-hashes -r requirements.lock
        uv pip install --quiet --python "$VENV/bin/python" --no-deps --no-build-isolation -e .
    else
        local pip=("$VENV/bin/python" -m pip --disable-pip-version-check --no-input)
        "${pip[@]}" install --progress-bar off --no-deps --require-hashes -r requirements.lock | grep --line-buffered -vE '^  (Using cached|Downloading)' >&2
        "${pip[@]}" install --quiet --no-deps --no-build-isolation -e .
    fi
}

has_postgresql() { command -v initdb >/dev/null 2>&1 || compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; }

has_chromium() { command -v chromium >/dev/null 2>&1 || command -v chromium-browser >/dev/null 2>&1 || command -v google-chrome >/dev/null 2>&1; }

install_for_tests() { # package
    { command -v apt-get >/dev/null 2>&1 && apt_install "$1"; } || say "$1 is missing and cannot be installed here: its tests will be skipped"
}

if [ "${1:-}" = --for-tests ]; then
    has_postgresql || install_for_tests postgresql
    has_chromium || install_for_tests chromium
fi
if [ -f "$STAMP" ] && [ "$(cat "$STAMP")" = "$WANTED" ] && is_new_enough "$VENV/bin/python"; then
    exit 0
fi
if ! is_new_enough "$VENV/bin/python" || { ! command -v uv >/dev/null 2>&1 && ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; }; then
    python=$(find_python) || fail "no Python 3.11 or newer found" "apt-get install python3, or name one: make PYTHON=/path/to/python3 setup"
    make_venv "$python"
fi
install_locked
echo "$WANTED" >"$STAMP"
say "$VENV is ready"

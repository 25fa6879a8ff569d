# Prerequisites of ./demo, ./test and packaging, checked and installed if possible. Works for root and for an ordinary user.
# shellcheck shell=bash

# Prints one line and exits: something is missing that the user has to install.
lacking() {
    printf '%s\n' "$1" >&2
    exit 1
}

need_cargo() {
    command -v cargo >/dev/null ||
        lacking "cargo was not found: install Rust 1.89 or later (with rustup), then run this again"
}

# Whether PostgreSQL's server programs are installed, in the places where src/embedded/installation.rs looks.
have_postgres() {
    local directory
    local -a path
    IFS=: read -ra path <<<"$PATH"
    for directory in /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/lib/postgresql*/bin /usr/libexec/postgresql* \
        /usr/local/pgsql*/bin /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin \
        /Applications/Postgres.app/Contents/Versions/*/bin "${path[@]}"; do
        if [[ -x $directory/initdb && -x $directory/pg_ctl && -x $directory/postgres && -x $directory/psql ]]; then
            return 0
        fi
    done
    return 1
}

# Installs Debian packages without creating a cluster or starting a service. $1: sudo, or empty; then the packages.
install_packages() {
    local -a as_root=()
    if [[ $1 ]]; then
        as_root=("$1" -n)
    fi
    shift
    printf 'Installing %s (apt-get install) ...\n' "$*" >&2
    # shellcheck disable=SC2016 # The inner shell expands it.
    "${as_root[@]}" sh -c '
        cluster=/etc/postgresql-common/createcluster.d/receiptd.conf
        policy=/usr/sbin/policy-rc.d
        made=$cluster
        trap "rm -f \$made" EXIT
        mkdir -p "${cluster%/*}"
        echo "create_main_cluster = false" >"$cluster"
        if [ ! -e "$policy" ]; then
            made="$cluster $policy"
            printf "#!/bin/sh\nexit 101\n" >"$policy"
            chmod +x "$policy"
        fi
        export DEBIAN_FRONTEND=noninteractive
        install="apt-get install -qq -o Dpkg::Use-Pty=0 --no-install-recommends $*"
        $install || { apt-get update -qq && $install; }
    ' sh "$@" </dev/null >&2
}

# Tries to install packages if that is possible without a password.
try_to_install() {
    if ! command -v apt-get >/dev/null; then
        return
    fi
    if [[ $(id -u) == 0 ]]; then
        install_packages '' "$@" || lacking "$* could not be installed: see apt-get's messages above"
    elif sudo -n true 2>/dev/null; then
        install_packages sudo "$@" || lacking "$* could not be installed: see apt-get's messages above"
    fi
}

need_postgres() {
    have_postgres || try_to_install postgresql
    have_postgres ||
        lacking "PostgreSQL's server programs were not found: install them (on Debian and Ubuntu: sudo apt-get install postgresql), then run this again"
}

# Prometheus, for the tests of the operators' dashboard and the alerts.
need_prometheus() {
    command -v prometheus >/dev/null && return
    try_to_install prometheus
    command -v prometheus >/dev/null ||
        lacking "Prometheus was not found: install it (on Debian and Ubuntu: sudo apt-get install prometheus), then run this again"
    stay_off prometheus
}

# Disables services that were only installed for the tests, so that they don't start with the machine. $@: the services.
stay_off() {
    if [[ -d /run/systemd/system ]]; then
        systemctl disable --quiet "$@" 2>/dev/null || sudo -n systemctl disable --quiet "$@" 2>/dev/null || true
    fi
}

# groff, for the test of the manual pages.
need_groff() {
    command -v groff >/dev/null && return
    try_to_install groff-base
    command -v groff >/dev/null ||
        lacking "groff was not found: install it (on Debian and Ubuntu: sudo apt-get install groff-base), then run this again"
}

# faketime, for the scenario of a clock that is wrong.
need_faketime() {
    command -v faketime >/dev/null && return
    try_to_install faketime
    command -v faketime >/dev/null ||
        lacking "faketime was not found: install it (on Debian and Ubuntu: sudo apt-get install faketime), then run this again"
}

# A browser, for the test of the page.
need_chromium() {
    command -v chromium >/dev/null && return
    try_to_install chromium
    command -v chromium >/dev/null ||
        lacking "Chromium was not found: install it (on Debian: sudo apt-get install chromium), then run this again"
}

# The tool that checks units; systemd itself need not run.
need_systemd_analyze() {
    command -v systemd-analyze >/dev/null && return
    try_to_install systemd
    command -v systemd-analyze >/dev/null ||
        lacking "systemd-analyze was not found: install it (on Debian and Ubuntu: sudo apt-get install systemd), then run this again"
}

# PgBouncer, for the tests through it. Debian installs it in /usr/sbin, which is only in root's PATH.
need_pgbouncer() {
    PATH=$PATH:/usr/sbin
    if command -v pgbouncer >/dev/null; then
        return
    fi
    try_to_install pgbouncer
    command -v pgbouncer >/dev/null ||
        lacking "PgBouncer was not found: install it (on Debian and Ubuntu: sudo apt-get install pgbouncer), then run this again"
    stay_off pgbouncer
}

# What ./demo and ./test need besides this repository. Sourced by them; works for root and for an ordinary user.
# shellcheck shell=bash

# Says one line and ends, as for every lack that the person has to see to.
lacking() {
    printf '%s\n' "$1" >&2
    exit 1
}

need_cargo() {
    command -v cargo >/dev/null ||
        lacking "cargo was not found: install Rust 1.89 or later (with rustup), then run this again"
}

# Whether PostgreSQL's server programs are where src/embedded/installation.rs looks for them.
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

# Installs Debian's packages without the cluster, and so without the service, that they would start. $1: sudo or
# nothing.
install_postgres() {
    local -a as_root=()
    if [[ $1 ]]; then
        as_root=("$1" -n)
    fi
    printf 'Installing PostgreSQL (apt-get install postgresql) ...\n' >&2
    # shellcheck disable=SC2016 # The inner shell expands it.
    "${as_root[@]}" sh -c '
        settings=/etc/postgresql-common/createcluster.d/receiptd.conf
        trap "rm -f $settings" EXIT
        mkdir -p "${settings%/*}"
        echo "create_main_cluster = false" >"$settings"
        export DEBIAN_FRONTEND=noninteractive
        install="apt-get install -qq -o Dpkg::Use-Pty=0 --no-install-recommends postgresql"
        $install || { apt-get update -qq && $install; }
    ' </dev/null >&2
}

need_postgres() {
    if have_postgres; then
        return 0
    fi
    if command -v apt-get >/dev/null; then
        if [[ $(id -u) == 0 ]]; then
            install_postgres '' || lacking "PostgreSQL could not be installed: see apt-get's messages above"
        elif sudo -n true 2>/dev/null; then
            install_postgres sudo || lacking "PostgreSQL could not be installed: see apt-get's messages above"
        fi
    fi
    have_postgres ||
        lacking "PostgreSQL's server programs were not found: install them (on Debian and Ubuntu: sudo apt-get install postgresql), then run this again"
}

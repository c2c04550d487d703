#!/bin/sh
# Installs codexd from its tarball: verifies the SHA-256, proves the binary, replaces the one before by a rename.
# Run again with the same tarball it changes nothing. POSIX sh.
set -eu

target_system=unknown-linux-gnu
from=
prefix=${HOME:+$HOME/.local}
expected=

usage() {
    cat <<'END'
usage: sh install.sh [--from FILE|URL] [--sha256 HEX] [--prefix FOLDER]

  --from FILE|URL   tarball of codexd [default: the one beside this script]
  --sha256 HEX      its SHA-256 [default: read from FILE.sha256 or URL.sha256]
  --prefix FOLDER   install to FOLDER/bin and FOLDER/share [default: ~/.local]
END
}

fail() {
    echo "install.sh: error: $1" >&2
    shift
    for hint in "$@"; do echo "  hint: $hint" >&2; done
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
        --from | --sha256 | --prefix)
            [ $# -ge 2 ] && [ -n "$2" ] || fail "$1 needs a value"
            case $1 in
                --from) from=$2 ;;
                --sha256) expected=$2 ;;
                --prefix) prefix=$2 ;;
            esac
            shift 2
            ;;
        -h | --help)
            usage
            exit 0
            ;;
        *)
            usage >&2
            fail "unknown argument: $1"
            ;;
    esac
done

has() { command -v "$1" >/dev/null 2>&1; }

machine=$(uname -m)
[ "$(uname -s)" = Linux ] || fail "codexd runs on Linux, this is $(uname -s)"
[ "$machine" = x86_64 ] || fail "there is no tarball for $machine, only for x86_64" "build codexd from source"
[ -n "$prefix" ] || fail "HOME is not set" "name a folder with --prefix"
case $prefix in
    /*) ;;
    *) prefix=$(pwd)/$prefix ;;
esac

if [ -z "$from" ]; then
    for beside in "$(dirname -- "$0")"/codexd-*-"$machine-$target_system".tar.gz; do
        [ -f "$beside" ] || fail "there is no tarball of codexd beside this script" "name one with --from FILE or --from URL"
        [ -z "$from" ] || fail "there are several tarballs of codexd beside this script" "name one with --from FILE"
        from=$beside
    done
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/codexd-install.XXXXXX") || fail "failed to create a temporary folder"
new=
clean() {
    rm -rf -- "$work"
    [ -z "$new" ] || rm -f -- "$new"
}
trap clean EXIT
trap 'exit 130' HUP INT TERM

download() {
    if has curl; then
        curl --fail --silent --show-error --location --proto-redir '=https' --max-time 600 --output "$2" -- "$1"
    elif has wget; then
        wget --quiet --timeout=60 --output-document="$2" -- "$1"
    else
        fail "neither curl nor wget is installed" "download the tarball and its .sha256 file, then use --from FILE"
    fi || fail "failed to download $1"
}

case $from in
    https://*) remote=yes ;;
    http://127.0.0.1[:/]* | http://localhost[:/]* | 'http://[::1]'[:/]*) remote=yes ;;
    http://*)
        # Who changes the tarball on its way can change the .sha256 file as well.
        [ -n "$expected" ] || fail "cannot verify a tarball over http:// without --sha256" "use https://, or name the SHA-256 with --sha256"
        remote=yes
        ;;
    *://*) fail "cannot download $from" "use an https:// address or a file" ;;
    *) remote= ;;
esac

tarball=$work/codexd.tar.gz
if [ -n "$remote" ]; then
    [ -n "$expected" ] || download "$from.sha256" "$work/sha256"
    download "$from" "$tarball"
else
    [ -f "$from" ] || fail "$from is not a file"
    if [ -z "$expected" ]; then
        [ -f "$from.sha256" ] || fail "cannot verify $from: there is no $from.sha256" "name the SHA-256 with --sha256"
        cp -- "$from.sha256" "$work/sha256"
    fi
    # The copy is what is verified and unpacked.
    cp -- "$from" "$tarball"
fi

if [ -z "$expected" ]; then
    read -r expected _ <"$work/sha256" || [ -n "$expected" ] || fail "$from.sha256 is empty"
fi
expected=$(printf %s "$expected" | tr ABCDEF abcdef)
case $expected in
    *[!0-9a-f]*) fail "not a SHA-256: $expected" ;;
esac
[ ${#expected} -eq 64 ] || fail "not a SHA-256: $expected"

if has sha256sum; then
    actual=$(sha256sum <"$tarball")
elif has shasum; then
    actual=$(shasum -a 256 <"$tarball")
elif has openssl; then
    actual=$(openssl dgst -sha256 -r <"$tarball")
else
    fail "cannot verify the tarball: no sha256sum, shasum or openssl is installed"
fi
actual=${actual%% *}
[ "$actual" = "$expected" ] || fail "$from has the SHA-256 $actual, expected $expected; nothing was installed" "download it again"

mkdir "$work/unpacked"
tar -xzf "$tarball" -C "$work/unpacked" || fail "failed to unpack $from"
set -- "$work"/unpacked/codexd-*
package=$1
{ [ $# -eq 1 ] && [ -f "$package/bin/codexd" ] && [ ! -L "$package/bin/codexd" ]; } ||
    fail "$from is not a tarball of codexd: it has no codexd-VERSION/bin/codexd"

bin=$prefix/bin
old=$bin/codexd
if [ -e "$old" ] && has dpkg-query && owner=$(dpkg-query --search "$old" 2>/dev/null); then
    fail "$old belongs to the Debian package ${owner%%:*}" "install the .deb instead, or use another --prefix"
fi
case $old in
    */node_modules/*) fail "$old belongs to npm" "use another --prefix" ;;
esac
case $(readlink "$old" 2>/dev/null || :) in
    */node_modules/*) fail "$old belongs to npm" "run \`npm uninstall -g codexd\` first, or use another --prefix" ;;
esac

mkdir -p -- "$bin" || fail "failed to create $bin" "name another folder with --prefix"
new=$bin/.codexd.install.$$
cp -- "$package/bin/codexd" "$new" || fail "failed to write to $bin" "name another folder with --prefix"
chmod 755 "$new"
version=$("$new" --version 2>&1) || fail "the codexd of the tarball does not run here: $version" "nothing was installed"
case $version in
    "codexd "[0-9]*) ;;
    *) fail "the program of the tarball is not codexd: $version" "nothing was installed" ;;
esac

# The other files first: the new binary is not there before them.
(cd "$package" && find share -type f) >"$work/files"
while IFS= read -r file; do
    folder=$prefix/${file%/*}
    mkdir -p -- "$folder"
    cmp -s -- "$package/$file" "$prefix/$file" && continue
    cp -- "$package/$file" "$prefix/$file.$$"
    chmod 644 "$prefix/$file.$$"
    mv -f -- "$prefix/$file.$$" "$prefix/$file"
done <"$work/files"

if cmp -s -- "$new" "$old"; then
    echo "$version is already in $bin"
else
    # Older systems sync everything or nothing.
    sync -- "$new" 2>/dev/null || sync
    mv -f -- "$new" "$old"
    echo "installed $version in $bin"
fi
[ "$("$old" --version)" = "$version" ] || fail "$old does not answer as $version"

case :${PATH:-}: in
    *":$bin:"*) echo "next: codexd up" ;;
    *)
        echo "$bin is not on your PATH: add it with  export PATH=\"$bin:\$PATH\""
        echo "next: $old up"
        ;;
esac

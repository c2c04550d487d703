# A booted host for one test: systemd as process 1 of a container whose files are an overlay of this machine's.
#
# In: ROOT, an empty folder; NAME, the host's name; CGROUPS, folders of control groups; BINDS, lines of `source:target`. NSPAWN, a file
# for the number of systemd-nspawn. Starts the container again when it has ended, which is a boot after a power cut, until its standard input ends;
# then everything ends.
set -eu

# These mounts are in a namespace of this process and end with it.
mount -t tmpfs -o mode=0755 tmpfs "$ROOT"
# What systemd-nspawn leaves after a power cut is not left on this machine.
mkdir -p /run/systemd/nspawn
mount -t tmpfs -o mode=0755 tmpfs /run/systemd/nspawn
mkdir "$ROOT/upper" "$ROOT/work" "$ROOT/merged"
# A whiteout hides what this machine has there; the folder that replaces it is empty.
for folder in dev run tmp mnt; do mknod "$ROOT/upper/$folder" c 0 0; done
mount -t overlay overlay -o "lowerdir=/,upperdir=$ROOT/upper,workdir=$ROOT/work" "$ROOT/merged"
host=$ROOT/merged
for folder in dev run tmp mnt; do mkdir "$host/$folder"; done
chmod 1777 "$host/tmp"
rm -f "$host/etc/machine-id"
tr -d - < /proc/sys/kernel/random/uuid > "$host/etc/machine-id"
echo "$NAME" > "$host/etc/hostname"
rm -rf "$host/var/lib/systemd/linger"
# Services of this machine that the test does not need: those that the packages enable.
mkdir -p "$host/etc/systemd/system"
for wants in "$host"/etc/systemd/system/multi-user.target.wants/*.service "$host"/etc/systemd/system/timers.target.wants/*.timer; do
    unit=$(basename "$wants")
    case $unit in '*'*|systemd-*|dbus*) ;; *) ln -sf /dev/null "$host/etc/systemd/system/$unit" ;; esac
done
grep -q '^cxd:' "$host/etc/passwd" || {
    echo 'cxd:x:52000:52000::/home/cxd:/bin/sh' >> "$host/etc/passwd"
    echo 'cxd:x:52000:' >> "$host/etc/group"
    # Without a line here PAM takes the account as one that is locked.
    echo 'cxd:*:19000:0:99999:7:::' >> "$host/etc/shadow"
}
mkdir -p "$host/home/cxd"
chown 52000:52000 "$host/home/cxd"
chmod 0755 "$host/home"

binds=()
while read -r bind; do [ -z "$bind" ] || binds+=("--bind-ro=$bind"); done <<< "$BINDS"

nspawn=
# Process 1 of the container is the child of systemd-nspawn: another one after each boot.
leader() { cat "/proc/$nspawn/task/$nspawn/children" 2> /dev/null || true; }
trap '[ -z "$nspawn" ] || kill -KILL "$nspawn" $(leader) 2> /dev/null; exit 0' TERM
(cat > /dev/null || true; kill -TERM $$) <&0 &
while :; do
    (
        for group in $CGROUPS; do echo 0 > "$group/cgroup.procs"; done
        export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1
        exec systemd-nspawn --register=no --keep-unit --machine="$NAME" --directory="$host" --private-network --link-journal=no \
            --resolv-conf=off --timezone=off --console=pipe "${binds[@]}" --boot systemd.unified_cgroup_hierarchy=1 < /dev/null
    ) &
    nspawn=$!
    echo "$nspawn" > "$NSPAWN.new"
    mv "$NSPAWN.new" "$NSPAWN"
    status=0
    wait "$nspawn" || status=$?
    # A container that cannot be started is not tried for ever. After a power cut, which the test announces, the status is the same.
    [ "$status" != 1 ] || rm "$NSPAWN.cut" 2> /dev/null || exit 1
done

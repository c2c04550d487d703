# Process 1 of the namespaces of a test: makes the machine look booted by systemd to one user, and starts that user's manager.
#
# In: ROOT, a folder with passwd, group, machine-id and boot-id; USER_ID; BINDS, lines of `source target`; ENVIRONMENT, lines of the user's
# environment. Ends when its standard input does, and with it everything in the namespaces.
set -eu
runtime=/run/user/$USER_ID

# A machine that was booted by systemd has these; a fresh /run is what a reboot leaves.
mount -t tmpfs -o mode=0755 tmpfs /run
mkdir -p /run/systemd/system /run/systemd/unit-root /run/lock "$runtime"
chown "$USER_ID:$USER_ID" "$runtime"
chmod 0700 "$runtime"

# The user exists here only, and every start is another boot.
mount --bind "$ROOT/passwd" /etc/passwd
mount --bind "$ROOT/group" /etc/group
[ -e /etc/machine-id ] || : > /etc/machine-id
mount --bind "$ROOT/machine-id" /etc/machine-id
mount --bind "$ROOT/boot-id" /proc/sys/kernel/random/boot_id

printf '%s' "$BINDS" | while read -r source target; do
    mkdir -p "$(dirname "$target")"
    if [ -d "$source" ]; then mkdir -p "$target"; else : > "$target"; fi
    mount --bind "$source" "$target"
done

# The cgroup namespace begins at the group that this process was started in.
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 cgroup2 /sys/fs/cgroup
slice=/sys/fs/cgroup/user.slice/user-$USER_ID.slice
manager=$slice/user@$USER_ID.service
mkdir -p /sys/fs/cgroup/init.scope "$slice/session-1.scope" "$manager"
echo 0 > /sys/fs/cgroup/init.scope/cgroup.procs
chown "$USER_ID" "$manager" "$manager/cgroup.procs" "$manager/cgroup.threads" "$manager/cgroup.subtree_control"

systemd=/lib/systemd/systemd
[ -x "$systemd" ] || systemd=/usr/lib/systemd/systemd
readarray -t environment <<< "$ENVIRONMENT"
(
    echo 0 > "$manager/cgroup.procs"
    cd /
    exec setpriv --reuid "$USER_ID" --regid "$USER_ID" --clear-groups \
        env -i "${environment[@]}" "$systemd" --user < /dev/null
) &
started=$!

trap 'exit 0' TERM
(cat > /dev/null || true; kill -TERM 1) <&0 &
# Everything that loses its parent becomes a child of this process, and is reaped here.
while kill -0 "$started" 2> /dev/null; do wait -n || true; done

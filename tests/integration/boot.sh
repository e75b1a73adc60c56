#!/bin/sh
# Boots a real systemd as PID 1 of namespaces, on a root of its own in memory: nothing of the host can be written,
# neither files nor devices, kernel settings nor the network. Called by boot.py, as:
#   unshare --mount --pid … sh boot.sh ROOT READABLE…
# ROOT is an empty folder, to be mounted over; ROOT.files is copied into it; READABLE are seen read-only.
set -eu
root=$1
shift
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$root"
cd "$root"
mkdir -p proc sys dev run tmp var/lib var/cache var/tmp var/log etc old home root
chmod 1777 tmp var/tmp
for name in bin sbin lib lib32 lib64 libx32; do
    if [ -L "/$name" ]; then cp -P "/$name" "$name"; elif [ -d "/$name" ]; then set -- "$@" "/$name"; fi
done
for path in /usr "$@"; do
    mkdir -p ".$path"
    mount --rbind "$path" ".$path"
    mount -o remount,bind,ro ".$path"
done
for name in passwd group nsswitch.conf ld.so.cache; do cp "/etc/$name" etc/; done
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs dev
for name in null zero full random urandom tty; do
    touch "dev/$name"
    mount --bind "/dev/$name" "dev/$name"
done
mkdir dev/shm dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s /proc/self/fd dev/fd
cp -R "$root.files/." .
mount -t tmpfs -o mode=755 tmpfs run
mkdir -p run/systemd
pivot_root . old
umount -l /old
mount --make-rshared / # among the services; credentials reach them by it
export container=other SYSTEMD_UNIT_PATH=/etc/systemd/system
exec /lib/systemd/systemd --system --unit=multi-user.target --log-target=console --log-level=info --show-status=no

#!/usr/bin/env bash
# Run a command with the file system that a Ray pod has: a read-only root, writable volumes, no capabilities, a network
# of its own. As root:   unshare --mount --net --pid --fork --kill-child read_only_root.sh PREFIX ROOT COMMAND…
# PREFIX and ROOT are folders that stay readable where a volume would hide them.
set -euo pipefail
prefix=$1 root=$2
shift 2

mount --make-rprivate /
mount -t proc proc /proc
ip link set lo up

# Beside the others, since a read-only root cannot get new folders.
mount -t tmpfs tmpfs /mnt
mkdir /mnt/cache /mnt/prefix /mnt/root
mount --bind "$prefix" /mnt/prefix
mount --bind "$root" /mnt/root

mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /home
mount -t tmpfs -o size=512m tmpfs /dev/shm
mkdir /tmp/ray /home/ray
for pair in "/mnt/prefix $prefix" "/mnt/root $root"; do
    read -r kept place <<< "$pair"
    case $place in
        /tmp/* | /home/*)
            mkdir -p "$place"
            mount --bind "$kept" "$place"
            ;;
    esac
    mount -o remount,bind,ro "$kept"
    mountpoint -q "$place" && mount -o remount,bind,ro "$place"
done
mount -o remount,bind,ro /

cd /home/ray
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all -- "$@"

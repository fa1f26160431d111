# Boots the device in DIR. Runs in a mount namespace of its own: the rest of the
# machine sees none of its mounts, and they vanish with the last process in it.
# Arguments: what systemd-nspawn gets besides the arguments below.
set -eu
for group in $CGROUPS; do
	echo $$ >"$group/cgroup.procs"
done
mount --make-rprivate /
case $HIERARCHY in
v2-beside-v1)
	# crun refuses a mixture of v1 and v2: the device sees v2 alone.
	umount -R /sys/fs/cgroup
	mount -t cgroup2 cgroup2 /sys/fs/cgroup
	;;
v1)
	if mountpoint -q /sys/fs/cgroup/unified; then umount /sys/fs/cgroup/unified; fi
	;;
esac

root=$DIR/root
mount -t overlay -o "lowerdir=/,upperdir=$DIR/upper,workdir=$DIR/work" flotta-device "$root"

# A file system must not be mounted twice: after a power cut the kernel may take
# a moment to let go of the loop device.
for image in "$DIR"/limits/*.img; do
	[ -e "$image" ] || continue
	n=0
	while [ -n "$(losetup --associated "$image")" ]; do
		n=$((n + 1))
		[ $n -lt 200 ] || { echo "loop device of $image is still in use" >&2; exit 1; }
		sleep 0.05
	done
	mkdir -p "${image%.img}"
	mount -o loop "$image" "${image%.img}"
done

if [ ! -e "$DIR/provisioned" ]; then
	if [ "$OSTREE" = true ]; then
		mkdir -p "$root/var/usrlocal"
		for folder in home root opt srv; do
			name=$folder
			[ $folder != root ] || name=roothome
			mkdir -p "$root/var/$name"
			rm -rf "${root:?}/$folder"
			ln -s "var/$name" "$root/$folder"
		done
		rm -rf "${root:?}/usr/local"
		ln -s ../var/usrlocal "$root/usr/local"
	fi
	case $PROVISION in
	files)
		# What the package's scriptlets do.
		chroot "$root" systemd-sysusers
		for file in subuid subgid; do
			grep -qs '^flotta:' "$root/etc/$file" || echo flotta:600000:65536 >>"$root/etc/$file"
		done
		chroot "$root" systemctl --global preset flotta-workloads.target
		;;
	packages)
		# Debian's rpm asks to be told that it is meant. The host's packages are none of rpm's, or another system's.
		force=
		if rpm --help | grep -q -e --force-debian; then force=--force-debian; fi
		rpm $force --root "$root" --nodeps -U "$DIR"/packages/*.rpm
		;;
	esac
	if [ "$HIERARCHY" = v1 ]; then
		chroot "$root" systemctl enable device-cgroups.service device-released.service
	fi
	touch "$DIR/provisioned"
fi

if [ "$OSTREE" = true ]; then
	# As of a deployment: all but /etc and /var is read-only, and what is to be
	# written elsewhere is a link to there.
	for folder in etc var; do mount --bind "$root/$folder" "$root/$folder"; done
	mount -o remount,bind,ro "$root"
fi

export SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes
case $HIERARCHY in
v1) export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=0 unified=0 ;;
*) export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 unified=1 ;;
esac
exec systemd-nspawn --register=no --keep-unit --quiet --directory="$root" --boot \
	--console=read-only --link-journal=no --resolv-conf=off --timezone=off \
	--capability=all --system-call-filter="@keyring bpf" "$@" \
	systemd.unified_cgroup_hierarchy=$unified

# Composes an image in an overlay of this machine's root: a chroot in which no service manager runs. Needs root, and runs
# in a mount namespace of its own.
# Arguments: a folder for the overlay, a file for what changed, and a command: rpm, or one that runs inside.
set -eu
dir=$1 changed=$2
shift 2
mount --make-rprivate /
mkdir -p "$dir/upper" "$dir/work" "$dir/root"
mount -t overlay -o "lowerdir=/,upperdir=$dir/upper,workdir=$dir/work" image "$dir/root"
mount -t tmpfs tmpfs "$dir/root/run"
mount -t proc proc "$dir/root/proc"
case $1 in
rpm)
	shift
	rpm --root "$dir/root" "$@"
	;;
*) chroot "$dir/root" "$@" ;;
esac
cd "$dir/upper"
# A character device is what an overlay has of a file that was removed.
find . -not -type d | sort >"$changed"

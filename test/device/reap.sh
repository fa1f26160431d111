# Takes a device away: when its owner closes the pipe on standard input, on
# purpose or by dying. A line in the pipe means that the device is to stay.
# Signals to the owner's terminal are not for us.
trap '' INT TERM HUP QUIT
if read -r _; then
	exit 0
fi

# Every process of the device is in its control groups.
remaining() {
	for group in $CGROUPS; do
		find "$group" -name cgroup.procs -exec cat {} + 2>/dev/null
	done
}
n=0
while pids=$(remaining) && [ -n "$pids" ] && [ $n -lt 600 ]; do
	# shellcheck disable=SC2086 # many PIDs
	kill -KILL $pids 2>/dev/null
	sleep 0.05
	n=$((n + 1))
done

nft delete table inet "$TABLE" 2>/dev/null
ip link del "$LINK" 2>/dev/null
n=0
while [ $n -lt 200 ]; do
	[ -e "/run/netns/$NETNS" ] && ip netns del "$NETNS" 2>/dev/null
	for group in $CGROUPS; do
		[ -d "$group" ] && find "$group" -depth -type d -exec rmdir {} \; 2>/dev/null
	done
	if [ "$KEEP_DIR" = false ]; then
		rm -rf --one-file-system "$DIR" 2>/dev/null
	fi
	left=false
	for path in $CGROUPS "/run/netns/$NETNS"; do
		[ -e "$path" ] && left=true
	done
	[ "$KEEP_DIR" = false ] && [ -e "$DIR" ] && left=true
	$left || break
	sleep 0.05
	n=$((n + 1))
done
# In one step, because the slot is free from here on.
mv "$RECORD" "${RECORD%/*}/.old-${RECORD##*/}-$$" && rm -rf "${RECORD%/*}/.old-${RECORD##*/}-$$"

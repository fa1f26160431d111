#!/bin/sh
# greenboot runs this at every boot: the boot is good when it ends with 0.
#
# The agent has to answer, and after an update that it has staged on a healthy device, the device has to be healthy
# again. Nothing here needs a network: a device that is offline is healthy. What the agent expects is in
# /var/lib/flotta-greenboot/expect, for the one deployment that is named in it.
#
# /etc/flotta/greenboot.conf may set, in seconds:
#   FLOTTA_GREENBOOT_TIMEOUT  how long to wait for it (300); 0 switches the check off
#   FLOTTA_GREENBOOT_SETTLE   how long it has to stay so (20)
#   FLOTTA_GREENBOOT_POLL     how long between two looks (5)
#   FLOTTA_GREENBOOT_PROBE    how long the agent may take to answer (30)
set -u

root=${FLOTTA_GREENBOOT_ROOT:-} # of tests
[ -z "$root" ] || PATH=$root/usr/bin:$PATH
dir=$root/var/lib/flotta-greenboot
FLOTTA_GREENBOOT_TIMEOUT=300
FLOTTA_GREENBOOT_SETTLE=20
FLOTTA_GREENBOOT_POLL=5
FLOTTA_GREENBOOT_PROBE=30
if [ -r "$root/etc/flotta/greenboot.conf" ]; then
	# shellcheck disable=SC1091
	. "$root/etc/flotta/greenboot.conf"
fi

say() { echo "flotta-agent: $*"; }

# number prints $1 if it is a number, or else $2.
number() {
	case $1 in
	'' | *[!0-9]*) echo "$2" ;;
	*) echo "$1" ;;
	esac
}
timeout=$(number "$FLOTTA_GREENBOOT_TIMEOUT" 300)
settle=$(number "$FLOTTA_GREENBOOT_SETTLE" 20)
poll=$(number "$FLOTTA_GREENBOOT_POLL" 5)
probe=$(number "$FLOTTA_GREENBOOT_PROBE" 30)

# deployment prints the name of the booted one, or nothing.
deployment() {
	read -r line <"$root/proc/cmdline" || [ -n "$line" ] || return 0
	for word in $line; do
		case $word in
		ostree=*) basename -- "$(readlink -f -- "$root${word#ostree=}")" ;;
		esac
	done
}

# seconds_up prints the seconds since the boot: the clock may be set meanwhile.
seconds_up() {
	read -r seconds _ <"$root/proc/uptime"
	echo "${seconds%%.*}"
}

# expected prints what the agent expects of the booted deployment, or nothing.
expected() {
	[ -r "$dir/expect" ] || return 0
	of='' what=''
	while IFS='=' read -r key value; do
		case $key in
		deployment) of=$value ;;
		expect) what=$value ;;
		esac
	done <"$dir/expect"
	[ -z "$of" ] || [ "$of" != "$(deployment)" ] || echo "$what"
}

# wanted says whether something on this host is to start the agent.
wanted() {
	for unit in yggd.service yggdrasil.service flotta-agent.service; do
		systemctl is-enabled --quiet "$unit" 2>/dev/null && return 0
	done
	return 1
}

if [ "$timeout" -eq 0 ]; then
	say "the check is switched off in /etc/flotta/greenboot.conf"
	exit 0
fi
expect=$(expected)
if [ -z "$expect" ] && ! wanted; then
	say "no service is enabled that starts the agent: nothing to check"
	exit 0
fi

end=$(($(seconds_up) + timeout))
since='' # when it became good
while :; do
	timeout -k 5 "$probe" flotta-agent status >/dev/null 2>&1
	code=$?
	now=$(seconds_up)
	case $expect/$code in
	*/0 | */3) good=yes ;;          # healthy; nobody has told the device what to do
	healthy/1) good='' ;;           # not healthy, but it was before
	*/1) good=yes ;;                # it answers, and more is not asked for
	*) good='' ;;                   # it does not answer
	esac
	if [ -z "$good" ]; then
		since=''
	elif [ -z "$since" ]; then
		since=$now
	fi
	if [ -n "$since" ] && [ $((now - since)) -ge "$settle" ]; then
		say "good (flotta-agent status: $code)"
		exit 0
	fi
	if [ "$now" -ge "$end" ]; then
		say "not good within $timeout s (flotta-agent status: $code): flotta-agent status and journalctl -u yggd say why"
		exit 1
	fi
	sleep "$poll"
done

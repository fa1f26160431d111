#!/bin/sh
# greenboot runs this after a boot that was not good, before it reboots or rolls back. It leaves a note of that boot for
# the agent, where every deployment finds it.
set -u

root=${FLOTTA_GREENBOOT_ROOT:-} # of tests
[ -z "$root" ] || PATH=$root/usr/bin:$PATH
dir=$root/var/lib/flotta-greenboot
keep=10

# deployment prints the name of the booted one, or nothing.
deployment() {
	read -r line <"$root/proc/cmdline" || [ -n "$line" ] || return 0
	for word in $line; do
		case $word in
		ostree=*) basename -- "$(readlink -f -- "$root${word#ostree=}")" ;;
		esac
	done
}

read -r boot <"$root/proc/sys/kernel/random/boot_id" || exit 1
case $boot in
'' | *[!0-9a-f-]*)
	echo "flotta-agent: the kernel gives this boot no id: no note is left" >&2
	exit 1
	;;
esac
mkdir -p "$dir" || exit 1
# What a power cut left behind.
rm -f "$dir"/.red-*
# Under its name it is whole, or not there: the power may go at any time.
temp=$dir/.red-$boot
{
	echo "boot=$boot"
	echo "deployment=$(deployment)"
	echo "time=$(date -u +%Y-%m-%dT%H:%M:%SZ)"
} >"$temp" && sync "$temp" && mv -f "$temp" "$dir/red-$boot" && sync "$dir" || exit 1

# The names are made of the characters above, so lines are names.
find "$dir" -maxdepth 1 -type f -name 'red-*' -printf '%T@ %p\n' | sort -rn | tail -n "+$((keep + 1))" |
	while read -r _ old; do rm -f -- "$old"; done
echo "flotta-agent: the agent will be told that this boot was not good"

#!/bin/sh
# Gives the user of the workloads a range of subordinate user and group ids, unless it has one. Run as root, when the
# package is installed and at each boot. Ranges of others are left out: two users with one range could read each
# other's containers.
#
#   subids [FOLDER]    the folder of subuid and subgid, /etc by default
set -eu
umask 022

etc=${1:-/etc}
user=flotta
count=65536
# Ids are numbers of 32 bits, and the last ones mean "none".
end=4294901760

# ranges prints the valid ranges in the files, as "first count".
ranges() {
	for file in "$etc/subuid" "$etc/subgid"; do
		[ -e "$file" ] || continue
		while IFS=: read -r _ first many rest || [ -n "${first:-}" ]; do
			case $first$many in *[!0-9]*) continue ;; esac
			if [ -z "$first" ] || [ -z "$many" ] || [ -n "$rest" ]; then continue; fi
			# The shell takes a number with a leading zero for an octal one.
			first=${first#"${first%%[!0]*}"} many=${many#"${many%%[!0]*}"}
			if [ "${#first}" -gt 10 ] || [ "${#many}" -gt 10 ]; then continue; fi
			echo "${first:-0} ${many:-0}"
		done <"$file"
	done
}

# free prints the first id from 600000 on that begins a free range.
free() {
	start=600000
	taken=$(ranges)
	moved=1
	while [ "$moved" = 1 ]; do
		moved=0
		while read -r first many; do
			if [ -n "$first" ] && [ "$first" -lt $((start + count)) ] && [ "$start" -lt $((first + many)) ]; then
				start=$((first + many)) moved=1
			fi
		done <<-EOF
			$taken
		EOF
	done
	if [ "$start" -gt $((end - count)) ]; then
		echo "subids: no $count ids in a row are free in $etc/subuid and $etc/subgid: remove ranges that nobody needs" >&2
		return 1
	fi
	echo "$start"
}

has() {
	[ -e "$1" ] || return 1
	id=$(id -u "$user" 2>/dev/null) || id=$user
	grep -q -e "^$user:" -e "^$id:" "$1"
}

start=
for file in "$etc/subuid" "$etc/subgid"; do
	has "$file" && continue
	[ -n "$start" ] || start=$(free)
	line=$user:$start:$count
	# A file without a newline at its end would swallow the line.
	if [ -s "$file" ] && [ -n "$(tail -c 1 "$file")" ]; then
		line="
$line"
	fi
	printf '%s\n' "$line" >>"$file"
	echo "subids: $user has $count ids from $start on in $file"
done

# Tells systemd of units whose control group is empty. See device-released.service.
agent=/usr/lib/systemd/systemd-cgroups-agent
[ -x "$agent" ] || agent=/lib/systemd/systemd-cgroups-agent
top=/sys/fs/cgroup/systemd

# released GROUP... tells of those that are leaves and have no process.
released() {
	for group; do
		# What is not there can't be read; nor has a group with children ended.
		if read -r _ <"$group/cgroup.procs" || [ ! -e "$group/tasks" ]; then
			continue
		fi
		for child in "$group"/*/; do
			[ -e "$child" ] || "$agent" "${group#"$top"}"
			break
		done
	done 2>/dev/null
}

while sleep 0.3; do
	released "$top"/*.slice/*.service "$top"/*.slice/*.scope "$top"/*.slice/*.slice/*.service
done

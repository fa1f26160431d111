package manifest

import (
	"encoding/json"
	"strconv"
)

// rewriteProbes writes out what older versions of Podman do not find out by
// themselves: the number of a port that is given by its name, and the host.
func rewriteProbes(c map[string]any) error {
	for _, kind := range []string{"livenessProbe", "readinessProbe", "startupProbe"} {
		probe, err := object(c, kind)
		if err != nil {
			return err
		}
		for _, how := range []string{"httpGet", "tcpSocket"} {
			action, err := object(probe, how)
			if err != nil {
				return within(err, "%s", kind)
			}
			if action == nil {
				continue
			}
			if err := resolvePort(c, action); err != nil {
				return within(err, "%s.%s", kind, how)
			}
			if host, _ := action["host"].(string); host == "" && how == "tcpSocket" {
				action["host"] = "localhost" // it is looked for in the container
			}
		}
	}
	return nil
}

// resolvePort makes the port of an action a number.
func resolvePort(c, action map[string]any) error {
	const highest = 65535
	name, isName := action["port"].(string)
	if !isName {
		_, err := integer(action, "port", 1, highest)
		return err
	}
	if _, err := strconv.ParseUint(name, 10, 16); err == nil {
		action["port"] = json.Number(name)
		_, err := integer(action, "port", 1, highest)
		return err
	}
	ports, err := objects(c, "ports")
	if err != nil {
		return err
	}
	for _, port := range ports {
		if port["name"] == name {
			action["port"] = port["containerPort"]
			_, err := integer(action, "port", 1, highest)
			return err
		}
	}
	return invalidf("the container has no port %.80q", name)
}

// checkInit refuses what an init container cannot have: Podman would refuse the
// pod, or wait for an end that does not come, when the old one is gone.
func checkInit(c map[string]any) error {
	for _, kind := range []string{"livenessProbe", "readinessProbe", "startupProbe", "lifecycle"} {
		if c[kind] != nil {
			return invalidf("an init container has no %s", kind)
		}
	}
	if c["restartPolicy"] == RestartAlways {
		return invalidf("an init container that goes on running is not supported: make it a container")
	}
	return nil
}

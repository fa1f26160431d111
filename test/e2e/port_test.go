//go:build device

package e2e

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/site"
)

// quickResync are settings that make what was changed by hand be put right soon.
func quickResync() string {
	return strings.Replace(site.DefaultSettings, "[runtime]\n", "[runtime]\nresync = \"5s\"\n", 1)
}

func TestPorts(t *testing.T) {
	t.Parallel()
	r := newRig(t, site.EdgeConfig{Settings: quickResync()})
	r.sub("a process of the host has the port", portOfProcess)
	r.sub("another workload has the port", portOfWorkload)
	r.sub("the firewall is open as long as the workload is there", portInFirewall)
	r.sub("firewalld guards the device", portInFirewalld)
	r.sub("nftables is not there", portWithoutFirewall)
}

// waits waits until the Edge API knows that the workload waits for that reason,
// and that the explanation names all of the words.
func (r *rig) waits(workload, reason string, words ...string) {
	r.Helper()
	r.until(workload+" waits because of "+reason, func() error {
		d, err := r.site.Device(r.edge.ID())
		if err != nil {
			return err
		}
		for _, w := range d.Status.Workloads {
			if w.Name != workload {
				continue
			}
			if w.Reason != reason {
				return fmt.Errorf("reason is %q: %s", w.Reason, w.Message)
			}
			for _, word := range words {
				if !strings.Contains(w.Message, word) {
					return fmt.Errorf("message %q does not name %s", w.Message, word)
				}
			}
			return nil
		}
		return errors.New("nothing is known of it")
	})
}

// run runs a command on the device as root, and returns what it printed.
func (r *rig) run(args ...string) string {
	r.Helper()
	result, err := r.edge.Run(r.ctx, args...)
	must(r.T, err)
	return result.Stdout
}

// idle fails when a container of the workload runs within d. Its pod may be there:
// Podman remembers what ran before a power cut.
func (r *rig) idle(workload string, d time.Duration) {
	r.Helper()
	hold(r.T, d, func() error {
		out, err := r.edge.Podman(r.ctx, "ps", "--noheading", "--filter", "name=^"+workload+"-")
		if err == nil && out != "" {
			err = fmt.Errorf("%s runs: %s", workload, out)
		}
		return err
	})
}

func portOfProcess(r *rig) {
	r.run("systemd-run", "--unit=squatter", "systemd-socket-activate", "--accept", "--inetd", "--listen=18070", "cat")
	r.until("the process listens", func() error {
		var dialer net.Dialer
		c, err := dialer.DialContext(r.ctx, "tcp", r.edge.Addr()+":18070")
		if err == nil {
			_ = c.Close()
		}
		return err
	})
	r.save("w.yaml", r.pod("claimer", "18071", "old"))
	r.answers("18071", "/env?name=ROUND", "old")
	id := r.running("claimer", "app")
	r.save("w.yaml", r.pod("claimer", "18070", "new"))
	r.waits("claimer", "PortConflict", "18070", "systemd-socket-") // as far as the kernel keeps names
	if now := r.running("claimer", "app"); now != id {
		r.Error("the version that ran was stopped although its successor cannot start")
	}
	r.answers("18071", "/env?name=ROUND", "old")

	// Its own port is no conflict: a change that keeps it goes through.
	r.save("w.yaml", r.pod("claimer", "18071", "newer"))
	r.answers("18071", "/env?name=ROUND", "newer")
	r.save("w.yaml", r.pod("claimer", "18070", "newest"))
	r.waits("claimer", "PortConflict", "18070", "systemd-socket-")
	r.run("systemctl", "stop", "squatter")
	r.answers("18070", "/env?name=ROUND", "newest")
	r.phase("claimer", "Running")
	r.remove("w.yaml")
	r.gone("claimer")
}

func portOfWorkload(r *rig) {
	r.save("first.yaml", r.pod("first", "18072", "first"))
	r.answers("18072", "/env?name=ROUND", "first")
	id := r.running("first", "app")
	r.save("second.yaml", r.pod("second", "18072", "second"))
	r.waits("second", "PortConflict", "18072", "first")
	r.idle("second", 3*time.Second)
	if now := r.running("first", "app"); now != id {
		r.Error("the workload that has the port was restarted")
	}
	r.answers("18072", "/env?name=ROUND", "first")
	r.remove("first.yaml")
	r.answers("18072", "/env?name=ROUND", "second")
	r.phase("second", "Running")
	r.remove("second.yaml")
	r.gone("first")
	r.gone("second")
}

// firewall waits until the rules of the device hold all of the texts, and none
// of those that begin with an exclamation mark.
func (r *rig) firewall(what string, texts ...string) {
	r.Helper()
	r.until(what, func() error {
		result, err := r.edge.Run(r.ctx, "nft", "list", "ruleset")
		if err != nil {
			return err
		}
		for _, text := range texts {
			text, absent := strings.CutPrefix(text, "!")
			if strings.Contains(result.Stdout, text) == absent {
				return fmt.Errorf("%q is there: %v\n%s", text, absent, result.Stdout)
			}
		}
		return nil
	})
}

func portInFirewall(r *rig) {
	r.firewall("nothing is to be open", "!table inet flotta")
	r.run("nft", "add", "table", "inet", "theirs")
	r.save("w.yaml", r.pod("web.shop", "18073", "open"))
	r.save("dns.yaml", r.workload("dns", "args: [sleep]\nports: [{containerPort: 53, hostPort: 18053, protocol: UDP}]", ""))
	r.answers("18073", "/env?name=ROUND", "open")
	r.firewall("both have a chain", "chain workload-web.shop {", "tcp dport 18073 accept", "chain workload-dns {", "udp dport 18053 accept", "jump workload-dns")

	// As far as this table reaches, the port is open whatever the policy is.
	r.run("nft", "add", "chain", "inet", "flotta", "input", "{ policy drop; }")
	r.answers("18073", "/env?name=ROUND", "open")
	r.firewall("the policy is put right", "hook input priority filter; policy accept")
	for _, edit := range []string{"flush chain inet flotta workload-dns", "delete table inet flotta", "insert rule inet flotta input tcp dport 18073 drop"} {
		r.run("nft", edit)
		r.firewall("what was changed by hand is put right: "+edit, "tcp dport 18073 accept", "udp dport 18053 accept", "!drop")
	}
	r.answers("18073", "/env?name=ROUND", "open")

	r.save("w.yaml", r.pod("web.shop", "18074", "moved"))
	r.answers("18074", "/env?name=ROUND", "moved")
	r.firewall("the port is another one", "tcp dport 18074 accept", "!18073")
	r.remove("w.yaml")
	r.gone("web.shop")
	r.firewall("the chain goes with its workload", "!workload-web.shop", "chain workload-dns {")
	r.remove("dns.yaml")
	r.gone("dns")
	r.firewall("the table goes with the last one", "!table inet flotta", "table inet theirs")
}

// answersNobody waits until a port of the device is closed to others.
func (r *rig) answersNobody(port string) {
	r.Helper()
	r.until("port "+port+" is closed", func() error {
		if got, err := r.query(port, "/version"); err == nil {
			return fmt.Errorf("it answers %q", got)
		}
		return nil
	})
}

// portInFirewalld has the real firewalld in the way, which rejects what it was not
// told of whatever other tables accept.
func portInFirewalld(r *rig) {
	r.save("w.yaml", r.pod("guarded", "18076", "guarded"))
	r.answers("18076", "/env?name=ROUND", "guarded")
	r.run("systemctl", "start", "firewalld")
	r.run("firewall-cmd", "--state")
	r.answers("18076", "/env?name=ROUND", "guarded")
	r.run("firewall-cmd", "--add-port=18077/tcp") // somebody else's
	r.run("firewall-cmd", "--reload")
	r.answers("18076", "/env?name=ROUND", "guarded")
	if permanent := r.run("firewall-cmd", "--permanent", "--list-all-zones"); strings.Contains(permanent, "18076") {
		r.Errorf("it was written to firewalld's files:\n%s", permanent)
	}
	r.run("firewall-cmd", "--set-default-zone=drop")
	r.answersNobody("18076") // a zone that is there to let nothing in
	r.run("firewall-cmd", "--set-default-zone=public")
	r.answers("18076", "/env?name=ROUND", "guarded")
	r.run("firewall-cmd", "--add-port=18077/tcp")

	r.save("w.yaml", r.pod("guarded", "18078", "moved"))
	r.answers("18078", "/env?name=ROUND", "moved")
	r.until("the port before is closed again", func() error {
		if zone := r.run("firewall-cmd", "--list-all"); strings.Contains(zone, "18076") || !strings.Contains(zone, "18077") || !strings.Contains(zone, "18078") {
			return fmt.Errorf("%s", zone)
		}
		return nil
	})
	r.run("systemctl", "restart", "firewalld")
	r.answers("18078", "/env?name=ROUND", "moved")
	r.remove("w.yaml")
	r.gone("guarded")
	r.until("nothing is left of it", func() error {
		if zones := r.run("firewall-cmd", "--list-all-zones"); strings.Contains(zones, "32123") {
			return fmt.Errorf("%s", zones)
		}
		return nil
	})
	r.run("systemctl", "stop", "firewalld")
}

func portWithoutFirewall(r *rig) {
	r.run("mv", "/usr/sbin/nft", "/usr/sbin/nft.away")
	r.save("w.yaml", r.pod("bare", "18075", "runs"))
	r.answers("18075", "/env?name=ROUND", "runs")
	r.phase("bare", "Running")
	r.until("the device says what is missing", func() error {
		if events := r.site.Events(r.edge.ID()); !strings.Contains(events, "nft is not installed") {
			return fmt.Errorf("events: %s", events)
		}
		return nil
	})
	r.until("the device is degraded", func() error {
		d, err := r.site.Device(r.edge.ID())
		if err == nil && d.Status.Phase != "degraded" {
			err = fmt.Errorf("it is %q", d.Status.Phase)
		}
		return err
	})
	r.run("mv", "/usr/sbin/nft.away", "/usr/sbin/nft")
	r.firewall("the port is opened when nftables is there", "tcp dport 18075 accept")
	r.until("the device is well again", func() error {
		d, err := r.site.Device(r.edge.ID())
		if err == nil && d.Status.Phase != "up" {
			err = fmt.Errorf("it is %q", d.Status.Phase)
		}
		return err
	})
	r.remove("w.yaml")
	r.gone("bare")
}

func TestFirewallOfADeviceThatLeaves(t *testing.T) {
	t.Parallel()
	r := newTenant(t, site.EdgeConfig{})
	r.firewall("the port is open", "chain workload-tenant {", "tcp dport 18080 accept")
	r.run("systemctl", "start", "firewalld")
	r.until("the port is open in firewalld", func() error {
		if zones := r.run("firewall-cmd", "--list-all-zones"); !strings.Contains(zones, "18080") {
			return fmt.Errorf("%s", zones)
		}
		return nil
	})
	r.unmanage()
	r.asksAgain()
	if zones := r.run("firewall-cmd", "--list-all-zones"); strings.Contains(zones, "18080") {
		r.Errorf("still open in firewalld:\n%s", zones)
	}
	r.firewall("nothing of it is left", "!table inet flotta")
}

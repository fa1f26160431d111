package firewall

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Opening is one port of the host that a workload takes.
type Opening struct {
	Workload string     // its name, a DNS-1123 subdomain of at most 63 characters
	Protocol string     // tcp, udp or sctp
	Address  netip.Addr // of the host; unspecified or invalid: every address
	Port     uint16
}

const (
	tableFamily = "inet"
	tableName   = "flotta"
	baseChain   = "input"
	// chainPrefix keeps chains of workloads apart from the base chain and from
	// the words of nft's language. The rest of a chain's name is the workload's,
	// as it is: every character of a DNS name can be in the name of a chain.
	chainPrefix = "workload-"

	maxName = 63
)

// normal returns the openings that make sense, sorted and each once, and says
// of the others what is wrong with them.
func normal(openings []Opening) (good []Opening, refused []string) {
	for _, o := range openings {
		if reason := o.check(); reason != "" {
			refused = append(refused, fmt.Sprintf("workload %.80q: %s", o.Workload, reason))
			continue
		}
		o.Address = o.Address.Unmap().WithZone("")
		if o.Address.IsUnspecified() {
			o.Address = netip.Addr{}
		}
		good = append(good, o)
	}
	slices.SortFunc(good, func(x, y Opening) int {
		return cmp.Or(
			cmp.Compare(x.Workload, y.Workload), cmp.Compare(x.Protocol, y.Protocol),
			x.Address.Compare(y.Address), cmp.Compare(x.Port, y.Port),
		)
	})
	slices.Sort(refused)
	return slices.Compact(good), slices.Compact(refused)
}

func (o Opening) check() string {
	switch {
	case !isName(o.Workload):
		return "not a name of a workload"
	case !slices.Contains([]string{"tcp", "udp", "sctp"}, o.Protocol):
		return fmt.Sprintf("%.20q is no protocol with ports", o.Protocol)
	case o.Port == 0:
		return "no port"
	}
	return ""
}

// isName reports whether name is a DNS-1123 subdomain. Whoever named the
// workload has checked that already; here it is what keeps nft's language out.
func isName(name string) bool {
	if name == "" || len(name) > maxName {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || label[0] == '-' || label[len(label)-1] == '-' || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			return false
		}
	}
	return true
}

// table is what is in the table, in words that are equal exactly when it means
// the same: the chains, sorted, and the rules of each in their order.
type table struct {
	chains []string
	rules  map[string][]string
}

func (t table) empty() bool { return len(t.chains) == 0 }

func (t table) equal(other table) bool {
	if !slices.Equal(t.chains, other.chains) {
		return false
	}
	for _, name := range t.chains {
		if !slices.Equal(t.rules[name], other.rules[name]) {
			return false
		}
	}
	return true
}

// desired returns the table for openings that are normal.
func desired(openings []Opening) table {
	t := table{rules: map[string][]string{}}
	for _, o := range openings {
		chain := chainPrefix + o.Workload
		if !slices.Contains(t.chains, chain) {
			t.chains = append(t.chains, chain)
			t.rules[baseChain] = append(t.rules[baseChain], "jump "+chain)
		}
		t.rules[chain] = append(t.rules[chain], o.rule())
	}
	if len(t.chains) > 0 {
		t.chains = append(t.chains, baseChain)
		slices.Sort(t.chains)
	}
	return t
}

// rule returns the rule in nft's language.
func (o Opening) rule() string {
	rule := fmt.Sprintf("%s dport %d accept", o.Protocol, o.Port)
	switch {
	case o.Address.Is4():
		return "ip daddr " + o.Address.String() + " " + rule
	case o.Address.Is6():
		return "ip6 daddr " + o.Address.String() + " " + rule
	}
	return rule
}

// script returns what nft has to be told to make the table be t, whatever it was
// before. All of it is one transaction.
func (t table) script() string {
	var b strings.Builder
	// What is to be deleted has to exist.
	fmt.Fprintf(&b, "add table %[1]s %[2]s\ndelete table %[1]s %[2]s\n", tableFamily, tableName)
	if t.empty() {
		return b.String()
	}
	fmt.Fprintf(&b, "table %s %s {\n", tableFamily, tableName)
	for _, chain := range t.chains {
		fmt.Fprintf(&b, "\tchain %s {\n", chain)
		if chain == baseChain {
			b.WriteString("\t\ttype filter hook input priority 0; policy accept;\n")
		}
		for _, rule := range t.rules[chain] {
			fmt.Fprintf(&b, "\t\t%s\n", rule)
		}
		b.WriteString("\t}\n")
	}
	b.WriteString("}\n")
	return b.String()
}

package firewall

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// listing is what nft prints as JSON: a list of objects with one key each.
type listing struct {
	Objects []map[string]json.RawMessage `json:"nftables"`
}

type tableObject struct {
	Family string          `json:"family"`
	Name   string          `json:"name"`
	Flags  json.RawMessage `json:"flags"`
}

type chainObject struct {
	Family   string `json:"family"`
	Table    string `json:"table"`
	Name     string `json:"name"`
	Type     string `json:"type"`
	Hook     string `json:"hook"`
	Priority *int   `json:"prio"`
	Policy   string `json:"policy"`
}

type ruleObject struct {
	Chain       string                       `json:"chain"`
	Expressions []map[string]json.RawMessage `json:"expr"`
}

func decode(raw []byte) (listing, error) {
	var l listing
	if err := json.Unmarshal(raw, &l); err != nil {
		return l, fmt.Errorf("decode nft's answer: %w", err)
	}
	return l, nil
}

// hasTable reports whether our table is among all tables, as nft lists them.
func hasTable(text string) bool {
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) == "table "+tableFamily+" "+tableName {
			return true
		}
	}
	return false
}

// parse reads the listing of our table. What we would never have written, and
// what makes no sense at all, comes out as something that equals nothing
// desired.
func parse(raw []byte) table {
	t := table{rules: map[string][]string{}}
	l, err := decode(raw)
	if err != nil {
		t.strange("listing", raw)
	}
	for _, object := range l.Objects {
		for kind, raw := range object {
			switch kind {
			case "metainfo":
			case "table":
				t.addTable(raw)
			case "chain":
				t.addChain(raw)
			case "rule":
				t.addRule(raw)
			default:
				t.strange(kind, raw)
			}
		}
	}
	slices.Sort(t.chains)
	return t
}

func (t *table) strange(kind string, raw []byte) { t.chains = append(t.chains, kind+" "+string(raw)) }

// addTable looks at the table itself: a flag can make it sleep. Which flag it
// is, nft does not always say.
func (t *table) addTable(raw []byte) {
	var o tableObject
	if err := json.Unmarshal(raw, &o); err != nil || len(o.Flags) > 0 {
		t.strange("table", raw)
	}
}

func (t *table) addChain(raw []byte) {
	var o chainObject
	err := json.Unmarshal(raw, &o)
	base := o.Type != "" || o.Hook != "" || o.Policy != "" || o.Priority != nil
	switch {
	case err != nil:
		t.strange("chain", raw)
	case o.Name == baseChain && o.Type == "filter" && o.Hook == "input" && o.Policy == "accept" && o.Priority != nil && *o.Priority == 0,
		o.Name != baseChain && !base:
		t.chains = append(t.chains, o.Name)
	default:
		t.strange("chain", raw)
	}
}

func (t *table) addRule(raw []byte) {
	var o ruleObject
	if err := json.Unmarshal(raw, &o); err != nil {
		t.strange("rule", raw)
		return
	}
	words := make([]string, 0, len(o.Expressions))
	for _, e := range o.Expressions {
		for kind, raw := range e {
			words = append(words, expression(kind, raw))
		}
	}
	t.rules[o.Chain] = append(t.rules[o.Chain], strings.Join(words, " "))
}

// expression returns a part of a rule in nft's language, as far as it is one
// that we write.
func expression(kind string, raw []byte) string {
	switch kind {
	case "accept":
		return "accept"
	case "jump":
		var jump struct{ Target string }
		if json.Unmarshal(raw, &jump) == nil {
			return "jump " + jump.Target
		}
	case "match":
		var match struct {
			Op   string
			Left struct {
				Payload struct{ Protocol, Field string }
			}
			Right any
		}
		if json.Unmarshal(raw, &match) != nil || (match.Op != "==" && match.Op != "in") {
			break
		}
		left := match.Left.Payload.Protocol + " " + match.Left.Payload.Field + " "
		switch right := match.Right.(type) {
		case float64:
			return fmt.Sprint(left, right)
		case string:
			if address, err := netip.ParseAddr(right); err == nil {
				right = address.String()
			}
			return left + right
		}
	}
	return kind + " " + string(raw)
}

// strict returns the tables of others that may drop what ours accepts, as far as
// their chains tell.
func strict(raw []byte) []string {
	l, err := decode(raw)
	if err != nil {
		return nil
	}
	var out []string
	for _, object := range l.Objects {
		var c chainObject
		if json.Unmarshal(object["chain"], &c) != nil || c.Hook != "input" || (c.Family == tableFamily && c.Table == tableName) {
			continue
		}
		// firewalld rejects by a last rule, not by the chain's policy.
		if c.Policy == "drop" || c.Table == "firewalld" {
			out = append(out, c.Family+" "+c.Table)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

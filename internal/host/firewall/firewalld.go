package firewall

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/godbus/dbus/v5"
)

// guard is another guard of the host that the ports have to be opened in.
type guard interface {
	// ensure makes the guard let these through, and no others of ours. False: it
	// does not run.
	ensure(ctx context.Context, openings []Opening) (running bool, err error)
	// watch calls changed when the guard was started or may have forgotten what it
	// was told. It returns when ctx ended.
	watch(ctx context.Context, changed func())
}

// firewalld is a guard, over its interface on the system's message bus. What it is
// told there is in force until it is reloaded, and is never written to its files.
//
// Nothing is kept of what it was told: rich rules of our priority are ours. That
// priority also puts them behind all rules of the administrator's, so that what
// those deny stays denied, and before the zone's last word.
type firewalld struct {
	socket string // of the bus
	// greeting is how long the bus may take to answer somebody who comes; 0: as long
	// as any question.
	greeting time.Duration

	mu    sync.Mutex
	zones map[string]bool // that may have rules of ours; nil: any may
}

const (
	busSocket = "/run/dbus/system_bus_socket"

	firewalldName = "org.fedoraproject.FirewallD1"
	firewalldPath = "/org/fedoraproject/FirewallD1"
	zoneInterface = firewalldName + ".zone"
	// firewalldTimeout is for one question: it is a slow program on slow hosts, and
	// answers nobody while it reloads.
	firewalldTimeout = 30 * time.Second

	// richPriority is of the highest, which come last: 32767.
	richPriority = 32123
)

// richRule returns the opening in firewalld's words, in the order in which it
// repeats them.
func (o Opening) richRule() string {
	rule := fmt.Sprintf("rule priority=%q ", strconv.Itoa(richPriority))
	switch {
	case o.Address.Is4():
		rule += fmt.Sprintf("family=\"ipv4\" destination address=%q ", o.Address.String())
	case o.Address.Is6():
		rule += fmt.Sprintf("family=\"ipv6\" destination address=%q ", o.Address.String())
	}
	return rule + fmt.Sprintf("port port=%q protocol=%q accept", strconv.Itoa(int(o.Port)), o.Protocol)
}

var richAddress = regexp.MustCompile(`address="([^"/]+)"`)

// sameRule returns a form of a rich rule that is equal for equal rules.
func sameRule(rule string) string {
	rule = richAddress.ReplaceAllStringFunc(rule, func(word string) string {
		address, err := netip.ParseAddr(richAddress.FindStringSubmatch(word)[1])
		if err != nil {
			return word
		}
		return fmt.Sprintf("address=%q", address.String())
	})
	words := strings.Fields(strings.ReplaceAll(rule, "'", `"`))
	slices.Sort(words)
	return strings.Join(words, " ")
}

// ours reports whether a rich rule is one that this package made.
func ours(rule string) bool {
	return slices.Contains(strings.Fields(rule), fmt.Sprintf("priority=%q", strconv.Itoa(richPriority)))
}

// richRules returns the rules for openings, by their comparable form. Loopback is
// open to all in any case.
func richRules(openings []Opening) map[string]string {
	out := map[string]string{}
	for _, o := range openings {
		if !o.Address.IsLoopback() {
			rule := o.richRule()
			out[sameRule(rule)] = rule
		}
	}
	return out
}

// connect returns a connection to the system's bus; nil: there is none.
func (f *firewalld) connect(ctx context.Context) (*dbus.Conn, error) {
	if _, err := os.Stat(f.socket); errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // no bus is no failure
	}
	// A bus that hangs takes the connection and says nothing. The connection ends
	// with its context.
	ctx, cancel := context.WithCancel(ctx)
	late := time.AfterFunc(cmp.Or(f.greeting, firewalldTimeout), cancel)
	defer late.Stop()
	conn, err := dbus.Dial("unix:path="+f.socket, dbus.WithContext(ctx))
	if err != nil {
		return nil, fmt.Errorf("connect to the system's message bus: %w", err)
	}
	err = conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))})
	if err == nil {
		err = conn.Hello()
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connect to the system's message bus: %w", err)
	}
	return conn, nil
}

func (f *firewalld) ensure(ctx context.Context, openings []Opening) (bool, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := f.connect(ctx)
	if err != nil || conn == nil {
		return false, nil //nolint:nilerr // nobody can be reached there, and so no firewalld guards by what it is told
	}
	defer conn.Close() //nolint:errcheck // nothing is lost
	running := false
	if err := ask(ctx, conn.BusObject(), &running, "org.freedesktop.DBus.NameHasOwner", firewalldName); err != nil || !running {
		f.forget()
		return false, err
	}
	daemon := conn.Object(firewalldName, firewalldPath)
	open, all, err := zones(ctx, daemon)
	if err != nil {
		return true, err
	}
	want := richRules(openings)
	f.mu.Lock()
	defer f.mu.Unlock()
	left := map[string]bool{}
	for _, zone := range all {
		rules := want
		if !open[zone] {
			rules = nil
		}
		if len(rules) == 0 && f.zones != nil && !f.zones[zone] {
			continue
		}
		if err := ensureZone(ctx, daemon, zone, rules); err != nil {
			f.zones = nil
			return true, fmt.Errorf("zone %s: %w", zone, err)
		}
		left[zone] = len(rules) > 0
	}
	f.zones = left
	return true, nil
}

// forget has the next one look at all zones.
func (f *firewalld) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.zones = nil
}

// zones returns the zones that ports are to be opened in, and all zones. Those are
// the default one and those with interfaces or sources, but not one that is there
// to let nothing in, or everything.
func zones(ctx context.Context, daemon dbus.BusObject) (open map[string]bool, all []string, err error) {
	var standard string
	if err := ask(ctx, daemon, &standard, firewalldName+".getDefaultZone"); err != nil {
		return nil, nil, err
	}
	var active map[string]map[string][]string
	if err := ask(ctx, daemon, &active, zoneInterface+".getActiveZones"); err != nil {
		return nil, nil, err
	}
	if err := ask(ctx, daemon, &all, zoneInterface+".getZones"); err != nil {
		return nil, nil, err
	}
	open = map[string]bool{standard: true}
	for zone := range maps.Keys(active) {
		open[zone] = true
	}
	for zone := range open {
		var settings map[string]dbus.Variant
		if err := ask(ctx, daemon, &settings, zoneInterface+".getZoneSettings2", zone); err != nil {
			continue // before firewalld 0.9 nobody can be asked
		}
		switch target, _ := settings["target"].Value().(string); target {
		case "DROP", "%%REJECT%%", "ACCEPT":
			delete(open, zone)
		}
	}
	return open, all, nil
}

// ensureZone makes the rules of ours in a zone be these.
func ensureZone(ctx context.Context, daemon dbus.BusObject, zone string, want map[string]string) error {
	var there []string
	if err := ask(ctx, daemon, &there, zoneInterface+".getRichRules", zone); err != nil {
		return err
	}
	have := map[string]bool{}
	for _, rule := range there {
		if !ours(rule) {
			continue
		}
		form := sameRule(rule)
		have[form] = true
		if _, wanted := want[form]; wanted {
			continue
		}
		if err := tellFirewalld(ctx, daemon, zoneInterface+".removeRichRule", zone, rule); err != nil {
			return err
		}
	}
	for _, form := range slices.Sorted(maps.Keys(want)) {
		if have[form] {
			continue
		}
		const untilReload = int32(0)
		if err := tellFirewalld(ctx, daemon, zoneInterface+".addRichRule", zone, want[form], untilReload); err != nil {
			return err
		}
	}
	return nil
}

// tellFirewalld changes something, unless it is so already.
func tellFirewalld(ctx context.Context, daemon dbus.BusObject, method string, args ...any) error {
	var zone string
	err := ask(ctx, daemon, &zone, method, args...)
	if err != nil && (strings.Contains(err.Error(), "ALREADY_ENABLED") || strings.Contains(err.Error(), "NOT_ENABLED")) {
		return nil
	}
	return err
}

// ask calls a method and stores its answer. It starts nobody.
func ask(ctx context.Context, object dbus.BusObject, answer any, method string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, firewalldTimeout)
	defer cancel()
	if err := object.CallWithContext(ctx, method, dbus.FlagNoAutoStart, args...).Store(answer); err != nil {
		return fmt.Errorf("%s: %w", method[strings.LastIndexByte(method, '.')+1:], err)
	}
	return nil
}

// watchPause bounds how often the bus is tried.
const watchPause = 30 * time.Second

func (f *firewalld) watch(ctx context.Context, changed func()) {
	for ctx.Err() == nil {
		f.listen(ctx, changed)
		timer := time.NewTimer(watchPause)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
	}
}

// listen calls changed until the connection ends.
func (f *firewalld) listen(ctx context.Context, changed func()) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := f.connect(ctx)
	if err != nil || conn == nil {
		return
	}
	defer conn.Close() //nolint:errcheck // nothing is lost
	signals := make(chan *dbus.Signal, 16)
	conn.Signal(signals)
	for _, match := range [][]dbus.MatchOption{
		{dbus.WithMatchInterface("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, firewalldName)},
		{dbus.WithMatchInterface(firewalldName), dbus.WithMatchMember("Reloaded")},
		{dbus.WithMatchInterface(zoneInterface), dbus.WithMatchMember("ZoneOfInterfaceChanged")},
	} {
		if conn.AddMatchSignalContext(ctx, match...) != nil {
			return
		}
	}
	for {
		select {
		case <-ctx.Done():
			return
		case _, open := <-signals:
			if !open {
				return
			}
			f.forget()
			changed()
		}
	}
}

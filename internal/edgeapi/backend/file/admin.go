package file

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/project-flotta/flotta-agent/internal/edgeapi"
	"github.com/project-flotta/flotta-agent/internal/fleet"
	"github.com/project-flotta/flotta-agent/pkg/api/v1alpha1"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Admin changes and lists the state of a folder from outside of the server, which
// may be running or not: it notices within moments.
type Admin struct {
	dir  string
	disk diskLock
}

// NewAdmin returns the administration of a folder.
func NewAdmin(dir string) *Admin {
	return &Admin{dir: dir, disk: diskLock{path: filepath.Join(dir, stateLock)}}
}

// lock makes sure that the folder is one of a backend and locks its state.
func (a *Admin) lock(ctx context.Context, id string) (release func(), err error) {
	if msgs := validation.IsDNS1123Subdomain(id); len(msgs) > 0 {
		return nil, fmt.Errorf("device %q: %s", id, msgs[0])
	}
	if info, err := os.Stat(filepath.Join(a.dir, requestsDir)); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("%s holds no state of an edge api; is FILE_BACKEND_DIR set?", a.dir)
	}
	return a.disk.acquire(ctx)
}

func (a *Admin) requestPath(id string) string {
	return filepath.Join(a.dir, requestsDir, id+stateExt)
}

// Approve lets a device in that asked.
func (a *Admin) Approve(ctx context.Context, id string) error {
	release, err := a.lock(ctx, id)
	if err != nil {
		return fmt.Errorf("approve: %w", err)
	}
	defer release()
	r, err := readRequest(a.requestPath(id), id)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("approve: device %s did not ask to be managed", id)
	}
	if err != nil {
		return fmt.Errorf("approve device %s: %w", id, err)
	}
	if fleet.IsGranted(r) {
		return nil
	}
	r.Spec.Approved = true
	if fleet.IsDeclined(r) {
		r.Status.Conditions = fleet.WithRequestCondition(r.Status.Conditions, v1alpha1.SignedRequestPending, "", time.Now())
	}
	_, err = storeRequest(a.requestPath(id), r)
	return err
}

// Decline refuses a device for good, whether it asked already or not. If it is
// managed, it is no more.
func (a *Admin) Decline(ctx context.Context, id string) error {
	release, err := a.lock(ctx, id)
	if err != nil {
		return fmt.Errorf("decline: %w", err)
	}
	defer release()
	now := time.Now()
	r, err := readRequest(a.requestPath(id), id)
	if errors.Is(err, fs.ErrNotExist) {
		r = createdAt(fleet.NewRequest(v1alpha1.DefaultNamespace, id, protocol.EnrolmentInfo{}, now), now)
	} else if err != nil {
		return fmt.Errorf("decline device %s: %w", id, err)
	}
	r.Spec.Approved = false
	r.Status.Conditions = fleet.WithRequestCondition(r.Status.Conditions, v1alpha1.SignedRequestDeclined, "", now)
	if _, err := storeRequest(a.requestPath(id), r); err != nil {
		return err
	}
	_, err = a.removeDevices(id)
	return err
}

// Delete ends the management of a device. It may ask again and is then approved
// anew; a manifest of it does so at once. Found says whether it was known.
func (a *Admin) Delete(ctx context.Context, id string) (found bool, err error) {
	release, err := a.lock(ctx, id)
	if err != nil {
		return false, fmt.Errorf("delete: %w", err)
	}
	defer release()
	// The request first: without its device it would be taken for forgotten.
	_, err = os.Lstat(a.requestPath(id))
	found = err == nil
	if err := removeDurably(a.requestPath(id)); err != nil {
		return found, fmt.Errorf("delete request of device %s: %w", id, err)
	}
	removed, err := a.removeDevices(id)
	return found || removed, err
}

func (a *Admin) removeDevices(id string) (found bool, err error) {
	paths, err := filepath.Glob(filepath.Join(a.dir, devicesDir, "*", id+stateExt))
	if err != nil {
		return false, fmt.Errorf("find device %s: %w", id, err)
	}
	for _, path := range paths {
		if err := removeDurably(path); err != nil {
			return true, fmt.Errorf("delete device %s: %w", id, err)
		}
	}
	return len(paths) > 0, nil
}

// Row is one device in a listing.
type Row struct {
	Namespace, ID string
	State         string // pending, declined, approved, registered
	Phase         string
	Seen          time.Time // zero: never
	Applied       bool
	Workloads     string
	Problem       string
}

// List returns all devices and requests.
func (a *Admin) List() ([]Row, error) {
	rows := make(map[edgeapi.Device]Row)
	var errs []error
	paths, err := filepath.Glob(filepath.Join(a.dir, devicesDir, "*", "*"+stateExt))
	errs = append(errs, err)
	for _, path := range paths {
		d := edgeapi.Device{Namespace: filepath.Base(filepath.Dir(path)), ID: strings.TrimSuffix(filepath.Base(path), stateExt)}
		data, err := os.ReadFile(path)
		if err == nil {
			var object *v1alpha1.EdgeDevice
			if object, err = decodeDevice(d, data); err == nil {
				rows[d] = deviceRow(object)
				continue
			}
		}
		rows[d] = Row{Namespace: d.Namespace, ID: d.ID, State: "unknown", Problem: err.Error()}
	}
	paths, err = filepath.Glob(filepath.Join(a.dir, requestsDir, "*"+stateExt))
	errs = append(errs, err)
	for _, path := range paths {
		id := strings.TrimSuffix(filepath.Base(path), stateExt)
		r, err := readRequest(path, id)
		if err != nil {
			rows[edgeapi.Device{ID: id}] = Row{ID: id, State: "unknown", Problem: err.Error()}
			continue
		}
		d := edgeapi.Device{Namespace: r.Spec.TargetNamespace, ID: id}
		if _, ok := rows[d]; ok && !fleet.IsDeclined(r) {
			continue
		}
		row := Row{Namespace: d.Namespace, ID: id, State: v1alpha1.SignedRequestPending}
		if fleet.IsDeclined(r) {
			row.State = v1alpha1.SignedRequestDeclined
		}
		rows[d] = row
	}
	list := make([]Row, 0, len(rows))
	for _, row := range rows {
		list = append(list, row)
	}
	slices.SortFunc(list, func(x, y Row) int { return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.ID, y.ID)) })
	return list, errors.Join(errs...)
}

func deviceRow(d *v1alpha1.EdgeDevice) Row {
	row := Row{Namespace: d.Namespace, ID: d.Name, State: "registered", Phase: d.Status.Phase}
	if d.Labels[v1alpha1.LabelSignedRequest] == v1alpha1.LabelTrue {
		row.State = v1alpha1.SignedRequestApproved
	}
	if d.Status.LastSeenTime != nil {
		row.Seen = d.Status.LastSeenTime.Time
	}
	for _, c := range d.Status.Conditions {
		switch {
		case c.Type == v1alpha1.ConditionConfigurationApplied:
			row.Applied = c.Status == "True"
		case c.Type == v1alpha1.ConditionDegraded && c.Status == "True":
			row.Problem = c.Message
		}
	}
	for _, e := range d.Status.PlaybookExec {
		if c := fleet.RunState(e.PlaybookExecutionStatus); c.Type == v1alpha1.PlaybookCompletedWithError && row.Problem == "" {
			row.Problem = strings.TrimSpace("playbook " + e.Name + " failed: " + c.Reason + " " + c.Message)
		}
	}
	names := make([]string, 0, len(d.Status.Workloads))
	for _, w := range d.Status.Workloads {
		names = append(names, w.Name+"="+cmp.Or(w.Phase, "?"))
	}
	row.Workloads = strings.Join(names, ",")
	return row
}

// WriteTable writes a listing for people.
func WriteTable(out io.Writer, rows []Row, now time.Time) error {
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	// The table is written by Flush, which says what went wrong.
	_, _ = fmt.Fprintln(table, "NAMESPACE\tDEVICE\tSTATE\tPHASE\tSEEN\tAPPLIED\tWORKLOADS\tPROBLEM")
	// Some of it are words of devices: nothing of it may reach the terminal as a
	// control sequence, or look like a column.
	dash := func(s string) string {
		printable := strings.Map(func(r rune) rune {
			if unicode.IsPrint(r) {
				return r
			}
			return ' '
		}, s)
		return cmp.Or(strings.Join(strings.Fields(printable), " "), "-")
	}
	for _, r := range rows {
		seen := "-"
		if !r.Seen.IsZero() {
			seen = now.Sub(r.Seen).Truncate(time.Second).String() + " ago"
		}
		applied := "no"
		if r.Applied {
			applied = "yes"
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", dash(r.Namespace), r.ID, r.State, dash(r.Phase), seen, applied, dash(r.Workloads), dash(r.Problem))
	}
	return table.Flush()
}

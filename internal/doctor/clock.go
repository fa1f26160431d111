package doctor

import (
	"context"
	"fmt"
	"time"
)

// earliest is before any device with this program can have been started.
func earliest() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

// latest is longer than any certificate that a device has is valid.
const latest = 2100

const setClock = "set it with `timedatectl set-ntp true`, or without a time server with `timedatectl set-time`; every TLS connection depends on it"

// clock looks whether the time can be right: certificates are valid for a time,
// and a device without a battery wakes up in 1970.
func (d *doctor) clock(context.Context) Finding {
	c, err := d.Clock()
	day := c.Now.UTC().Format(time.DateTime) + " UTC"
	switch {
	case c.Now.Before(earliest()):
		return fail("", "it is "+day+", which is in the past", setClock)
	case c.Now.Year() >= latest:
		return fail("", "it is "+day+", which is far in the future", setClock)
	case err != nil:
		return warn("", "it is "+day+"; whether that is synchronised is not known: "+err.Error(), "compare it with another clock; `timedatectl` shows more")
	case !c.Synchronised:
		return warn("", "it is "+day+", not synchronised with a time server", "`timedatectl` and `chronyc sources` show why; port 123/udp to the time server must be open. Until then the clock may drift")
	}
	return ok("", fmt.Sprintf("%s, synchronised to within %s", day, c.Error.Round(time.Millisecond)))
}

package desired

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

// Digests of having been told to forget everything: while there still is a
// storage to deliver to, and then.
const (
	withdrawingDigest = "withdrawing"
	withdrawnDigest   = "withdrawn"
)

// leavingPrefix sets the digest of a configuration that is only left to be
// delivered apart from the same one in force.
const leavingPrefix = "leaving "

// digest identifies the content of m: SHA-256 of its canonical JSON without the
// version. The order of workloads, secrets and ConfigMaps is not content; flotta
// v0.2 changes it from poll to poll.
func digest(m protocol.DeviceConfigurationMessage) (string, error) {
	m.Version = ""
	m.DeviceID = strings.ToLower(m.DeviceID)
	// Sort copies: the message is still to be decoded in the order of the wire.
	// Stable, because of two of one name the first is taken.
	m.Workloads = slices.Clone(m.Workloads)
	slices.SortStableFunc(m.Workloads, func(a, b protocol.Workload) int { return strings.Compare(a.Name, b.Name) })
	for i := range m.Workloads {
		m.Workloads[i].ConfigMaps = slices.Sorted(slices.Values(m.Workloads[i].ConfigMaps))
	}
	m.Secrets = slices.Clone(m.Secrets)
	slices.SortStableFunc(m.Secrets, func(a, b protocol.Secret) int { return strings.Compare(a.Name, b.Name) })
	data, err := json.Marshal(m) // struct order, and maps sorted by key
	if err != nil {
		return "", fmt.Errorf("encode message: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

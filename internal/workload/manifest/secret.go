package manifest

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/desired"
	"github.com/project-flotta/flotta-agent/internal/secret"
)

const (
	secretPrefix = "flotta-"
	hashLength   = 12
	// maxSecretName is Podman's bound, less one for versions that count so.
	maxSecretName = 63
	// maxSecretData is Podman's bound on a secret's data.
	maxSecretData = 512000 - 1
)

// Secret is a Podman secret that a pod refers to. Its name says what it holds,
// so one that exists never has to be changed, and a pod that runs keeps the
// one it was started with.
type Secret struct {
	Name string
	Data secret.Value
}

// vault resolves references to the secrets that were sent.
type vault struct {
	sent  map[string]map[string]secret.Value
	taken map[string]Secret // by Podman's name
}

func newVault(secrets []desired.Secret) *vault {
	v := &vault{sent: make(map[string]map[string]secret.Value, len(secrets)), taken: map[string]Secret{}}
	for _, s := range secrets {
		v.sent[s.Name] = s.Data
	}
	return v
}

// used returns the Podman secrets that were referred to, by name.
func (v *vault) used() []Secret {
	out := make([]Secret, 0, len(v.taken))
	for _, name := range slices.Sorted(maps.Keys(v.taken)) {
		out = append(out, v.taken[name])
	}
	return out
}

// take returns the name of the Podman secret that holds the secret, which was
// sent: a JSON object of key to base64, as references from the environment take
// it in every version.
func (v *vault) take(name string) (string, error) {
	if !dnsSubdomain(name) {
		return "", invalidf("secret name %.80q %s", name, notSubdomain)
	}
	content := make(map[string]string, len(v.sent[name]))
	for key, value := range v.sent[name] {
		content[key] = base64.StdEncoding.EncodeToString([]byte(value.Reveal()))
	}
	payload, err := json.Marshal(content) // sorts keys
	if err != nil {
		return "", invalidf("secret %.80q cannot be encoded", name)
	}
	if len(payload) > maxSecretData {
		return "", invalidf("secret %.80q is larger than Podman's limit of 512000 bytes", name)
	}
	sum := sha256.Sum256(payload)
	hash := hex.EncodeToString(sum[:])[:hashLength]
	if room := maxSecretName - len(secretPrefix) - 1 - hashLength; len(name) > room {
		// Two long names may become one; then their data are the same.
		name = strings.TrimRight(name[:room], ".-")
	}
	podmanName := secretPrefix + name + "-" + hash
	v.taken[podmanName] = Secret{Name: podmanName, Data: secret.New(string(payload))}
	return podmanName, nil
}

// SecretNames recognises the names of the Podman secrets that are ours.
type SecretNames struct{ whole, within *regexp.Regexp }

// NewSecretNames returns the recogniser.
func NewSecretNames() SecretNames {
	const form = `flotta-[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?-[0-9a-f]{12}`
	return SecretNames{
		whole:  regexp.MustCompile(`^` + form + `$`),
		within: regexp.MustCompile(`\b` + form + `\b`),
	}
}

// Ours reports whether a Podman secret of that name is one of ours.
func (n SecretNames) Ours(name string) bool { return n.whole.MatchString(name) }

// In returns the names of ours that text, such as a manifest, refers to; names
// that only look like it are returned too.
func (n SecretNames) In(text []byte) []string {
	var out []string
	for _, m := range n.within.FindAll(text, -1) {
		out = append(out, string(m))
	}
	return out
}

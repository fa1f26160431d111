package agent

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v2"

	"github.com/project-flotta/flotta-agent/internal/bundle"
	"github.com/project-flotta/flotta-agent/internal/secret"
	"github.com/project-flotta/flotta-agent/pkg/protocol"
)

const (
	// maxKeyFile bounds a file in which private keys are looked for.
	maxKeyFile = 256 << 10
	// maxNested bounds how deep a document is looked through.
	maxNested = 100
)

// Secrets are all secrets that the device knows. What must not leave it is
// searched for by them.
func (e *Examination) Secrets() []secret.Value {
	var found secretList
	found.add(e.yggd.Password)
	for _, path := range []string{e.yggd.CertFile, e.yggd.KeyFile} {
		if path != "" {
			found.keysBeside(path)
		}
	}
	found.storage(e.message.Configuration)
	for _, s := range e.message.Secrets {
		found.secret(s)
	}
	for _, w := range e.message.Workloads {
		if w.ImageRegistries != nil {
			found.authFile(w.ImageRegistries.AuthFile)
		}
		for _, text := range append([]string{w.Specification}, w.ConfigMaps...) {
			found.document(text)
		}
	}
	return found.values
}

// secretList collects secrets.
type secretList struct{ values []secret.Value }

func (l *secretList) add(texts ...string) {
	for _, text := range texts {
		if text != "" {
			l.values = append(l.values, secret.New(text))
		}
	}
}

// encoded adds a text, and what it is the base64 of.
func (l *secretList) encoded(text string) {
	l.add(text)
	if plain, err := decodeText(text); err == nil {
		l.add(string(plain))
	}
}

func decodeText(text string) ([]byte, error) { return base64.StdEncoding.DecodeString(text) }

// keysBeside adds the private keys of a folder: former and coming credentials lie
// beside the one in use.
func (l *secretList) keysBeside(path string) {
	paths, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*"))
	if err != nil { // a name with the signs of a pattern
		paths = []string{path}
	}
	for _, name := range paths {
		info, err := os.Stat(name)
		if err != nil || !info.Mode().IsRegular() || info.Size() > maxKeyFile {
			continue
		}
		if text, err := os.ReadFile(name); err == nil {
			l.keysIn(text)
		}
	}
}

// keysIn adds the private keys of PEM text.
func (l *secretList) keysIn(text []byte) {
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			return
		}
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			l.add(string(pem.EncodeToMemory(block)), string(block.Bytes))
		}
	}
}

func (l *secretList) storage(c *protocol.DeviceConfiguration) {
	if c == nil {
		return
	}
	if c.Storage != nil && c.Storage.S3 != nil {
		l.encoded(c.Storage.S3.AWSAccessKeyID)
		l.encoded(c.Storage.S3.AWSSecretAccessKey)
		l.userinfo(c.Storage.S3.BucketHost)
	}
	if c.Metrics != nil && c.Metrics.Receiver != nil {
		l.userinfo(c.Metrics.Receiver.URL)
		l.query(c.Metrics.Receiver.URL)
	}
	for _, target := range c.LogCollection {
		if target.SyslogConfig != nil {
			l.userinfo(target.SyslogConfig.Address)
			l.keysIn([]byte(target.SyslogConfig.ClientKey))
		}
	}
}

// userinfo adds the password of a URL.
func (l *secretList) userinfo(text string) {
	u, err := url.Parse(text)
	if err != nil || u.User == nil {
		return
	}
	if password, ok := u.User.Password(); ok {
		l.add(password)
	} else {
		l.add(u.User.Username()) // a token
	}
}

// minQuery is the length from which on a value in a URL may be a secret and no
// word of its own.
const minQuery = 8

// query adds the values in the query of a URL: some receivers have keys there.
func (l *secretList) query(text string) {
	u, err := url.Parse(text)
	if err != nil {
		return
	}
	for _, values := range u.Query() {
		for _, value := range values {
			if len(value) >= minQuery {
				l.add(value)
			}
		}
	}
}

// secret adds the values of a Secret: a JSON object of base64 texts.
func (l *secretList) secret(s protocol.Secret) {
	var values map[string]string
	if json.Unmarshal([]byte(s.Data), &values) != nil {
		l.add(s.Data) // whatever it is
		return
	}
	for _, value := range values {
		l.encoded(value)
	}
}

// authFile adds the credentials of registries.
func (l *secretList) authFile(text string) {
	var file struct {
		Auths map[string]map[string]any `json:"auths"`
	}
	l.add(text)
	if json.Unmarshal([]byte(text), &file) != nil {
		return
	}
	for _, registry := range file.Auths {
		for key, value := range registry {
			text, ok := value.(string)
			if !ok || !bundle.Sensitive(key) {
				continue
			}
			l.encoded(text)
			if plain, err := decodeText(text); err == nil {
				if _, password, ok := strings.Cut(string(plain), ":"); ok {
					l.add(password)
				}
			}
		}
	}
}

// document adds what goes by the name of a secret in a document of a user.
func (l *secretList) document(text string) {
	var value any
	if yaml.Unmarshal([]byte(text), &value) == nil {
		l.walk(value, 0)
	}
}

func (l *secretList) walk(value any, depth int) {
	if depth > maxNested {
		return
	}
	switch value := value.(type) {
	case []any:
		for _, v := range value {
			l.walk(v, depth+1)
		}
	case map[any]any:
		name, _ := value["name"].(string)
		for k, v := range value {
			key, _ := k.(string)
			text, isText := v.(string)
			if isText && (bundle.Sensitive(key) || key == "value" && bundle.Sensitive(name)) {
				l.add(text)
			}
			l.userinfo(text)
			l.walk(v, depth+1)
		}
	}
}

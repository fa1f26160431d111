package manifest

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/project-flotta/flotta-agent/internal/secret"
)

const (
	filesPrefix = "files-"
	// defaultFileMode is what Kubernetes gives the files of a volume.
	defaultFileMode = fs.FileMode(0o644)
	// maxFileKey is the longest key of a ConfigMap or Secret.
	maxFileKey = 253
)

// FileSet is what those volumes hold that are made from ConfigMaps and Secrets.
// They are files in a folder of the workload rather than volumes of Podman's:
// its volumes are shared by all pods that use the same name, keep what was
// removed, outlive the pod, and some versions lack them or garble what is in
// them.
type FileSet struct {
	// Folder is the folder's name, which says what it holds: it never has to be
	// changed, and a pod that runs keeps the one it was started with. Empty:
	// there are no such volumes.
	Folder  string
	Volumes []string // the folders in it, one a volume, sorted
	Files   []File   // by path
}

// File is a file of a FileSet.
type File struct {
	Path string      // below the folder: the volume, and the path in it
	Mode fs.FileMode // permissions
	Data secret.Value
}

// IsFilesFolder reports whether a folder of that name in a workload's folder is
// one of a FileSet.
func IsFilesFolder(name string) bool {
	digits, ok := strings.CutPrefix(name, filesPrefix)
	if !ok || len(digits) != 32 {
		return false
	}
	_, err := hex.DecodeString(digits)
	return err == nil
}

// FilesFolder returns the path of the folder of a FileSet, which must not be
// empty. It belongs to whoever the root of the containers is on the host.
func FilesFolder(workloadsDir, name string, set FileSet) string {
	return filepath.Join(workloadsDir, name, set.Folder)
}

// fileVolume is a volume while it is put together.
type fileVolume struct {
	files    map[string]File // by path in the volume
	fallback fs.FileMode
}

func newFileVolume(source map[string]any) (*fileVolume, error) {
	mode, err := fileMode(source, "defaultMode", defaultFileMode)
	return &fileVolume{files: map[string]File{}, fallback: mode}, err
}

// add adds the entries of data that the source asks for.
func (v *fileVolume) add(source map[string]any, data map[string]secret.Value) error {
	items, err := objects(source, "items")
	if err != nil {
		return err
	}
	if _, all := source["items"].([]any); !all {
		for key, value := range data {
			if err := v.put(key, v.fallback, value); err != nil {
				return err
			}
		}
		return nil
	}
	optional, _ := source["optional"].(bool)
	for i, item := range items {
		key, _ := item["key"].(string)
		value, ok := data[key]
		if !ok && optional {
			continue
		}
		if !ok {
			return invalidf("items[%d]: there is no key %.80q", i, key)
		}
		mode, err := fileMode(item, "mode", v.fallback)
		if err != nil {
			return within(err, "items[%d]", i)
		}
		at, _ := item["path"].(string)
		if err := v.put(at, mode, value); err != nil {
			return within(err, "items[%d]", i)
		}
	}
	return nil
}

func (v *fileVolume) put(at string, mode fs.FileMode, data secret.Value) error {
	if !localPath(at) {
		return invalidf("path %.80q does not lead to a file in the volume", at)
	}
	at = path.Clean(at)
	for other := range v.files {
		if strings.HasPrefix(other, at+"/") || strings.HasPrefix(at, other+"/") {
			return invalidf("path %.80q is a file and a folder", at)
		}
	}
	v.files[at] = File{Path: at, Mode: mode, Data: data}
	return nil
}

// localPath reports whether a path leads to something below where it starts.
func localPath(p string) bool {
	return p != "" && len(p) < 4096 && !strings.ContainsAny(p, "\x00\r\n") && path.Clean(p) != "." &&
		!path.IsAbs(p) && !slices.Contains(strings.Split(p, "/"), "..") &&
		!slices.ContainsFunc(strings.Split(p, "/"), func(part string) bool { return len(part) > 255 })
}

func fileMode(in map[string]any, key string, otherwise fs.FileMode) (fs.FileMode, error) {
	if in[key] == nil {
		return otherwise, nil
	}
	n, err := integer(in, key, 0, int64(fs.ModePerm))
	return fs.FileMode(n) & fs.ModePerm, err //nolint:gosec // at most 0777
}

// integer returns the number at key, which has to be one from least to most.
func integer(in map[string]any, key string, least, most int64) (int64, error) {
	number, ok := in[key].(json.Number)
	if ok {
		if n, err := number.Int64(); err == nil && n >= least && n <= most {
			return n, nil
		}
	}
	return 0, invalidf("%s is no number from %d to %d", key, least, most)
}

// fileSet puts the volumes together and names the result by what it holds.
func fileSet(volumes map[string]*fileVolume) FileSet {
	if len(volumes) == 0 {
		return FileSet{}
	}
	set := FileSet{Volumes: slices.Sorted(maps.Keys(volumes))}
	sum := sha256.New()
	note := func(text string) {
		_ = binary.Write(sum, binary.BigEndian, uint64(len(text)))
		sum.Write([]byte(text))
	}
	for _, name := range set.Volumes {
		note(name)
		files := volumes[name].files
		_ = binary.Write(sum, binary.BigEndian, uint64(len(files)))
		for _, at := range slices.Sorted(maps.Keys(files)) {
			file := files[at]
			file.Path = name + "/" + at
			note(file.Path)
			note(file.Mode.String())
			note(file.Data.Reveal())
			set.Files = append(set.Files, file)
		}
	}
	set.Folder = filesPrefix + hex.EncodeToString(sum.Sum(nil)[:16])
	return set
}

// configData returns what a ConfigMap holds.
func configData(configMap map[string]any) (map[string]secret.Value, error) {
	out := map[string]secret.Value{}
	for _, field := range []string{"data", "binaryData"} {
		entries, err := object(configMap, field)
		if err != nil {
			return nil, err
		}
		for key, value := range entries {
			text, ok := value.(string)
			if !ok {
				return nil, invalidf("%s holds something else than texts", field)
			}
			if field == "binaryData" {
				raw, err := base64.StdEncoding.DecodeString(text)
				if err != nil {
					return nil, invalidf("binaryData holds something else than base64")
				}
				text = string(raw)
			}
			if _, twice := out[key]; twice || len(key) > maxFileKey || !localPath(key) || strings.Contains(key, "/") {
				return nil, invalidf("key %.80q is there twice, or is no name of a file", key)
			}
			out[key] = secret.New(text)
		}
	}
	return out, nil
}

// folder reports whether there are files below that path.
func (v *fileVolume) folder(at string) bool {
	for file := range v.files {
		if strings.HasPrefix(file, at+"/") {
			return true
		}
	}
	return false
}

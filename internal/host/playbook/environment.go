package playbook

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/project-flotta/flotta-agent/internal/command"
)

// SearchPath is where ansible-playbook is searched for, and what playbooks have
// for PATH.
const SearchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// errMissing says that there is no Ansible.
var errMissing = errors.New("ansible-playbook is not installed")

// find returns the path of ansible-playbook: the one that is set, or the one in
// SearchPath.
func find(set string) (string, error) {
	if set != "" {
		if runnable(set) {
			return set, nil
		}
		return "", fmt.Errorf("%w as %s", errMissing, set)
	}
	for _, dir := range filepath.SplitList(SearchPath) {
		if path := filepath.Join(dir, "ansible-playbook"); runnable(path) {
			return path, nil
		}
	}
	return "", errMissing
}

func runnable(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && unix.Access(path, unix.X_OK) == nil
}

// interpreters are what runs Ansible's modules, the best one first: the package
// manager's own is in none that Ansible may have been installed with.
var interpreters = []string{"/usr/bin/python3", "/usr/libexec/platform-python"}

func interpreter() string {
	for _, path := range interpreters {
		if runnable(path) {
			return path
		}
	}
	return "auto_silent"
}

// The file of settings is there so that Ansible reads no other one: not the
// host's, and not one that somebody has put into a folder. There is one host,
// which goes by all names that a playbook can have for it.
const (
	settings  = "# What playbooks of the edge device agent are run with: nothing but defaults.\n[defaults]\n"
	inventory = "localhost ansible_connection=local ansible_python_interpreter=%s\n"
)

// stage is what a playbook is run with: two folders, one to read and one to
// write.
type stage struct {
	work, home string
}

// set makes both folders anew.
func (s stage) set(r request, who account) error {
	for _, dir := range []string{s.work, s.home} {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	if err := s.folder(s.work, 0o750, 0, who.gid); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"playbook.yml": r.Playbook, "ansible.cfg": settings, "inventory": fmt.Sprintf(inventory, interpreter()),
	} {
		path := filepath.Join(s.work, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			return err
		}
		if who.uid == 0 {
			continue
		}
		if err := errors.Join(os.Chown(path, 0, int(who.gid)), os.Chmod(path, 0o640)); err != nil {
			return err
		}
	}
	return s.folder(s.home, 0o700, who.uid, who.gid)
}

func (s stage) folder(path string, mode os.FileMode, uid, gid uint32) error {
	if err := os.Mkdir(path, 0o700); err != nil {
		return err
	}
	if gid != 0 || uid != 0 {
		if err := os.Chown(path, int(uid), int(gid)); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode)
}

func (s stage) clear() error { return errors.Join(os.RemoveAll(s.work), os.RemoveAll(s.home)) }

// environ is the whole environment of a playbook. Of the caller's it has the
// proxies, which an administrator can set for the unit.
func (s stage) environ(who account, caller []string) []string {
	env := []string{
		"PATH=" + SearchPath, "LANG=C.UTF-8", "LC_ALL=C.UTF-8",
		"HOME=" + s.home, "USER=" + who.name, "LOGNAME=" + who.name, "SHELL=/bin/sh",
		"ANSIBLE_CONFIG=" + filepath.Join(s.work, "ansible.cfg"),
		"ANSIBLE_HOME=" + filepath.Join(s.home, ".ansible"),
		"ANSIBLE_LOCAL_TEMP=" + filepath.Join(s.home, "tmp"),
		"ANSIBLE_REMOTE_TEMP=" + filepath.Join(s.home, "tmp"),
		"ANSIBLE_RETRY_FILES_ENABLED=False", "ANSIBLE_NOCOLOR=True", "ANSIBLE_NOCOWS=True",
		"ANSIBLE_STDOUT_CALLBACK=default", "ANSIBLE_LOCALHOST_WARNING=False",
		// Modules would write what they are told, secrets as well, to the journal.
		"ANSIBLE_NO_TARGET_SYSLOG=True",
	}
	if dir := "/run/user/" + strconv.FormatUint(uint64(who.uid), 10); who.uid != 0 {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			env = append(env, "XDG_RUNTIME_DIR="+dir)
		}
	}
	return append(env, command.Proxies(caller)...)
}

// arguments is the command line. Nothing in it but what was checked comes from
// the wire, and that only behind an equals sign.
func (s stage) arguments(program string, r request, more ...string) []string {
	args := []string{program, "--inventory=" + filepath.Join(s.work, "inventory")}
	if r.Check {
		args = append(args, "--check")
	}
	if r.Become != nil {
		args = append(args, "--become", "--become-user="+cmp.Or(r.Become.User, "root"))
		if r.Become.Method != "" {
			args = append(args, "--become-method="+r.Become.Method)
		}
	}
	return append(append(args, more...), filepath.Join(s.work, "playbook.yml"))
}

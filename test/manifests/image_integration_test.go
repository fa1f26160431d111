//go:build integration

package manifests_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/project-flotta/flotta-agent/test/testenv"
)

// Images that are built twice, in different folders, are the same to the byte;
// a registry takes them, and what is in them runs.
func TestImages(t *testing.T) {
	t.Parallel()
	address := registry(t)
	first, second := t.TempDir(), t.TempDir()
	images(t, cluster.root, first, "PUSH="+address+"/flotta")
	images(t, copied(t), second)
	for _, program := range []struct{ name, path string }{{"flotta-operator", "manager"}, {"flotta-edge-api", "flotta-edge-api"}} {
		archive := program.name + "-1.2.3-rc.1.oci.tar"
		if !bytes.Equal([]byte(read(t, filepath.Join(first, archive))), []byte(read(t, filepath.Join(second, archive)))) {
			t.Errorf("%s differs from build to build", archive)
		}
		name := address + "/flotta/" + program.name + ":1.2.3-rc.1"
		crane(t, "validate", "--remote", name)
		files := filepath.Join(t.TempDir(), "files.tar")
		crane(t, "export", "--platform", "linux/"+runtime.GOARCH, name, files)
		dir := t.TempDir()
		if out, err := exec.Command("tar", "-xf", files, "-C", dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		out, err := exec.Command(filepath.Join(dir, program.path), "--help").CombinedOutput()
		if err != nil || !strings.Contains(string(out), program.name) {
			t.Errorf("%s does not run: %v: %s", program.name, err, out)
		}
	}
}

// registry starts a registry and returns its address.
func registry(t *testing.T) string {
	t.Helper()
	port, err := testenv.FreePort("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	address := "127.0.0.1:" + strconv.Itoa(port)
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, testenv.Tool(t, "crane"), "registry", "serve", "--address", address)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("registry: %s", log.String())
		}
	})
	deadline := time.Now().Add(30 * time.Second)
	for exec.Command(testenv.Tool(t, "crane"), "catalog", address).Run() != nil {
		if time.Now().After(deadline) {
			t.Fatal("the registry does not answer")
		}
	}
	return address
}

func crane(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), testenv.Tool(t, "crane"), args...).CombinedOutput(); err != nil {
		t.Fatalf("crane %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// images builds the images of this machine's architecture from a source tree.
func images(t *testing.T, root, out string, env ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(root, "build/images.sh"), out, "1.2.3-rc.1")
	cmd.Env = append(os.Environ(), "PLATFORMS="+runtime.GOARCH, "SOURCE_DATE_EPOCH=1700000000",
		"PATH="+filepath.Dir(testenv.Tool(t, "crane"))+":"+os.Getenv("PATH"))
	cmd.Env = append(cmd.Env, env...)
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build images in %s: %v: %s", root, err, text)
	}
}

// copied is a copy of what the programs are built from, somewhere else.
func copied(t *testing.T) string {
	t.Helper()
	root := filepath.Join(t.TempDir(), "elsewhere")
	if err := os.Mkdir(root, 0o750); err != nil {
		t.Fatal(err)
	}
	args := []string{"-r"}
	for _, name := range []string{"build", "cmd", "internal", "pkg", "go.mod", "go.sum"} {
		args = append(args, filepath.Join(cluster.root, name))
	}
	if out, err := exec.Command("cp", append(args, root)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return root
}

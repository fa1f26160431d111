package testenv

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// ToolsEnv names the environment variable that lists the folders of built
// tools, separated by ':'. The Makefile sets it; without it the build script is
// asked, so that a plain `go test` finds the same programs.
const ToolsEnv = "FLOTTA_TOOLS"

// Tool returns the absolute path of a pinned tool such as "yggd". The test
// fails when it was not built.
func Tool(tb testing.TB, name string) string {
	tb.Helper()
	path, err := FindTool(name)
	if err != nil {
		tb.Fatalf("find tool: %v", err)
	}
	return path
}

// FindTool is Tool for programs. It runs the build script when ToolsEnv is not
// set, and then works only below the root of this repository.
func FindTool(name string) (string, error) {
	if list := os.Getenv(ToolsEnv); list != "" {
		for _, dir := range filepath.SplitList(list) {
			path := filepath.Join(dir, name)
			if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() {
				return path, nil
			}
		}
		return "", fmt.Errorf("%s is in no folder of %s=%s: run `make tools`", name, ToolsEnv, list)
	}
	root, err := Root()
	if err != nil {
		return "", err
	}
	out, err := exec.Command(filepath.Join(root, "test/tools/build.sh"), "which", name).Output()
	if err != nil {
		if exit, ok := errors.AsType[*exec.ExitError](err); ok {
			return "", fmt.Errorf("find %s: %s", name, strings.TrimSpace(string(exit.Stderr)))
		}
		return "", fmt.Errorf("find %s: %w", name, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// Root returns the root of this repository: the nearest folder at or above the
// working directory that holds the build script of the tools. A test runs in
// the folder of its package, so it finds the tree it was compiled from.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("find repository: %w", err)
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "test/tools/build.sh")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find repository: no test/tools/build.sh at or above %s", start)
		}
	}
}
